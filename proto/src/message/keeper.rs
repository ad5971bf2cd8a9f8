//! Messages between the keeper and the broker.

message_table! {
    enum KeeperMessage;
    uses {
        use crate::domains;
    }

    /// First message: the configuration, as JSON.
    1 Setup since 1 from Keeper fds [] flags 0 {} [
        /// The configuration (`vgemd::config`).
        json: u8, max limits::MESSAGE_LEN - 1024;
    ]
    /// One device: its name and description.
    2 Device since 1 from Keeper fds [] flags 0 {
        /// Its number.
        device: DeviceId,
    } [
        /// The description.
        description: u8, max limits::DESCRIPTION_LEN;
    ]
    /// All devices are told; serve.
    3 Serve since 1 from Keeper fds [] flags 0 {} []
    /// The configuration was read again: who may hold and use what, as JSON.
    4 Policy since 1 from Keeper fds [] flags 0 {} [
        /// The policy (`vgemd::config`).
        json: u8, max limits::MESSAGE_LEN - 1024;
    ]
    /// An instance runs: the broker's end of its link, and its pidfd.
    11 InstanceStarted since 1 from Keeper fds ["link" "pidfd"] flags 0 {
        /// The instance.
        instance: InstanceId,
        /// Its process.
        pid: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// An instance could not be started.
    12 InstanceFailed since 1 from Keeper fds [] flags 0 {
        /// The instance.
        instance: InstanceId,
    } [
        /// Why, in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// An instance's process has ended.
    13 InstanceExited since 1 from Keeper fds [] flags 0 {
        /// The instance.
        instance: InstanceId,
        /// Exit code, or -signal.
        status: i32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// An object is kept and pinned as far as allowed.
    21 Kept since 1 from Keeper fds [] flags 0 {
        /// The object.
        object: ObjectKey,
        /// Bytes really pinned.
        pinned: u64,
    } []
    /// The keeper has let an object go: no fd and no mapping of it is left there.
    22 Dropped since 1 from Keeper fds [] flags 0 {
        /// The object.
        object: ObjectKey,
    } []
    /// A porter runs: the client's end of its channel, the broker's end of its link, and its pidfd.
    24 PorterStarted since 1 from Keeper fds ["channel" "link" "pidfd"] flags 0 {
        /// The porter.
        porter: PorterId,
        /// Its process.
        pid: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// A porter could not be started.
    25 PorterFailed since 1 from Keeper fds [] flags 0 {
        /// The porter.
        porter: PorterId,
    } [
        /// Why, in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// A porter's process has ended.
    26 PorterExited since 1 from Keeper fds [] flags 0 {
        /// The porter.
        porter: PorterId,
        /// Exit code, or -signal.
        status: i32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// A domain has its listening socket.
    27 DoorOpened since 1 from Keeper fds ["listener"] flags 0 {
        /// The domain.
        domain: DomainId,
    } [
        /// Where the socket is.
        path: u8, max limits::TEXT_LEN;
    ]
    /// A domain cannot have a listening socket.
    28 DoorFailed since 1 from Keeper fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } [
        /// Why, in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// The control group of a process.
    29 CgroupFound since 1 from Keeper fds [] flags 0 {
        /// Which question this answers.
        question: u64,
    } [
        /// Its path in version 2; empty if the process has ended or is in none.
        path: u8, max domains::CGROUP_LEN;
    ]
    /// End in an orderly way.
    30 Stop since 1 from Keeper fds [] flags 0 {} []
    /// Control runs: the broker's end of its link. It takes the place of one before.
    31 ControlStarted since 1 from Keeper fds ["link"] flags 0 {
        /// Its process.
        pid: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Control's process has ended, or could not be started; it will be tried again.
    32 ControlExited since 1 from Keeper fds [] flags 0 {} [
        /// How, in words.
        text: u8, max limits::TEXT_LEN;
    ]

    /// The broker is confined and serves.
    100 Serving since 1 from Broker fds [] flags 0 {} []
    /// Start an instance.
    110 StartInstance since 1 from Broker fds [] flags 0 {
        /// Its number.
        instance: InstanceId,
        /// Which device.
        device: DeviceId,
        /// For which domain.
        domain: DomainId,
    } []
    /// Kill an instance.
    111 KillInstance since 1 from Broker fds [] flags 0 {
        /// The instance.
        instance: InstanceId,
    } []
    /// Keep a duplicate of an object's fd and pin the object.
    120 Keep since 1 from Broker fds ["duplicate"] flags 0 {
        /// The object.
        object: ObjectKey,
        /// Bytes.
        len: u64,
    } []
    /// Let an object go; answered by Dropped.
    121 Drop since 1 from Broker fds [] flags 0 {
        /// The object.
        object: ObjectKey,
    } []
    /// Start a porter for one client.
    124 StartPorter since 1 from Broker fds [] flags 0 {
        /// Its number.
        porter: PorterId,
    } []
    /// Kill a porter, or a doorman.
    125 KillPorter since 1 from Broker fds [] flags 0 {
        /// The porter.
        porter: PorterId,
    } []
    /// Start a doorman; answered as StartPorter is.
    126 StartDoorman since 1 from Broker fds [] flags 0 {
        /// Its number, which no porter has.
        porter: PorterId,
    } []
    /// Make a listening socket for a domain.
    127 OpenDoor since 1 from Broker fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } [
        /// Its name.
        name: u8, max domains::NAME_LEN;
    ]
    /// Take the listening socket of a domain away.
    128 CloseDoor since 1 from Broker fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } []
    /// Find out the control group of a process; answered by CgroupFound.
    129 FindCgroup since 1 from Broker fds ["pidfd"] flags 0 {
        /// The number of the question.
        question: u64,
    } []
}
