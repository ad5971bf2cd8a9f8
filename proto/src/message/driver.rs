//! Messages between a driver instance and the broker. Drivers never send fds.

message_table! {
    enum DriverMessage;
    uses {
        use crate::error::ErrorCode;
        use crate::jobs::{Completion, DriverJob, DriverOperand, DriverParam, DriverWait, PointFailure};
        use crate::rights::Access;
        use crate::user_queue::Window;
    }

    /// The instance is ready; first and once.
    1 Ready since 1 from Driver fds [] flags 0 {
        /// The protocol version the driver speaks.
        version: u16,
        /// Zero.
        reserved: Zero<6>,
    } [
        /// The description, as `--describe` prints it.
        description: u8, max limits::DESCRIPTION_LEN;
    ]
    /// The object is mapped.
    11 Mapped since 1 from Driver fds [] flags 0 {
        /// The object.
        object: ObjectKey,
    } []
    /// The object could not be mapped; jobs that name it will fail with MapFailed.
    12 NotMapped since 1 from Driver fds [] flags 0 {
        /// The object.
        object: ObjectKey,
        /// The errno.
        errno: i32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// The object is unmapped everywhere in the instance.
    13 Unmapped since 1 from Driver fds [] flags 0 {
        /// The object.
        object: ObjectKey,
    } []
    /// The queue is closed: every job of it has ended.
    23 TimelineClosed since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
    } []
    /// Jobs that ended since the last such message, in any order of queues and in order within one.
    40 Complete since 1 from Driver fds [] flags 0 {} [
        /// The jobs.
        completions: Completion, max limits::COMPLETIONS;
    ]
    /// A failure begins here; sent before its point is signalled.
    41 Cause since 1 from Driver fds [] flags 0 {
        /// Its identity; the issuer is the instance.
        cause: CauseId,
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
        /// When.
        at: Time,
        /// What went wrong.
        code: ErrorCode,
        /// Zero.
        reserved: Zero<4>,
    } [
        /// In words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// Every wait of a job has passed; sent for jobs that wait for promises, or for entries of user queues.
    42 Unblocked since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
    } []
    /// Asks how a point ended for which a job has a Data wait, and of which the slot has forgotten it; answered by
    /// PointEnded.
    43 AskPoint since 1 from Driver fds [] flags 0 {
        /// The timeline.
        timeline: TimelineKey,
        /// The point.
        point: Point,
    } []
    /// The ring of a queue is looked at from now on, or could not be mapped.
    50 RingReady since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The errno, if it could not be mapped; otherwise 0.
        errno: i32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// A range is reached at its address from now on, or cannot be.
    51 Bound since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The address of the first byte.
        address: u64,
        /// The code, if it cannot be reached; 0 is ok.
        code: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Nothing is reached at that address any more, and no entry uses what was there.
    52 Unbound since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The address of the first byte.
        address: u64,
    } []
    /// Entries of a queue reach its client's own memory from now on as they were last told to, and nothing else of it.
    53 WindowsSet since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
    } []
    /// An entry has waited for its client's own memory for too long; whether it ever ends nobody knows.
    54 Stalled since 1 from Driver fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The entry's point.
        point: Point,
        /// The address that is waited for.
        address: u64,
        /// Since when.
        since: Time,
    } []

    /// First message: who the instance is.
    100 Start since 1 from Broker fds [] flags 0 {
        /// The instance; also its cause issuer.
        instance: InstanceId,
        /// The domain it serves.
        domain: DomainId,
    } []
    /// Map an object, whole. Sent again with Write it replaces a read-only mapping.
    /// Operations that entries of user queues may not use; in place of those of the last such message.
    101 Forbid since 1 from Broker fds [] flags 0 {} [
        /// Their numbers.
        operations: u16, max limits::OPERATIONS;
    ]
    /// Map an object, or replace its mapping.
    110 Map since 1 from Broker fds ["export"] flags 0 {
        /// The object.
        object: ObjectKey,
        /// Bytes.
        len: u64,
        /// What the fd allows.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// Unmap an object; answered by Unmapped. No job in flight uses it.
    111 Unmap since 1 from Broker fds [] flags 0 {
        /// The object.
        object: ObjectKey,
    } []
    /// A fence page in which the instance signals: the page read-write, the observer's interest read-only.
    120 SignalPage since 1 from Broker fds ["page" "interest"] flags 0 {
        /// The instance's number for it; signal and observe pages are numbered apart.
        page: PageId,
    } []
    /// A fence page that the instance observes: the page read-only, its own interest read-write.
    121 ObservePage since 1 from Broker fds ["page" "interest"] flags 0 {
        /// The instance's number for it; signal and observe pages are numbered apart.
        page: PageId,
    } []
    /// A page will not be used again: unmap it. No slot of it is in use.
    122 DropSignalPage since 1 from Broker fds [] flags 0 {
        /// The page.
        page: PageId,
    } []
    /// An observed page will not be used again: unmap it.
    123 DropObservePage since 1 from Broker fds [] flags 0 {
        /// The page.
        page: PageId,
    } []
    /// A queue opens.
    130 OpenTimeline since 1 from Broker fds [] flags 0 {
        /// Its timeline.
        timeline: TimelineKey,
        /// Whose it is, for the engine to keep contexts apart.
        client: ClientKey,
        /// The domain of that client.
        domain: DomainId,
        /// The last point that was signalled: not 0 if another instance signalled the timeline before.
        value: Point,
        /// When that was.
        at: Time,
        /// 0, the ordinary one, to 7: which queues go first.
        priority: u8,
        /// Zero.
        reserved: Zero<7>,
    } [
        /// The failures so far, oldest first; one more than a slot shows if there were more.
        failures: PointFailure, max limits::FAILURES_TOLD;
    ]
    /// A queue closes once its jobs have ended; answered by TimelineClosed.
    131 CloseTimeline since 1 from Broker fds [] flags 0 {
        /// Its timeline.
        timeline: TimelineKey,
    } []
    /// Show a timeline to one more observer: fill the slot, then publish its generation.
    132 Publish since 1 from Broker fds [] flags 0 {
        /// The timeline.
        timeline: TimelineKey,
        /// The signal page.
        page: PageId,
        /// The slot.
        slot: u16,
        /// Zero.
        reserved: Zero<6>,
    } []
    /// Stop showing a timeline in a slot.
    133 Retire since 1 from Broker fds [] flags 0 {
        /// The timeline.
        timeline: TimelineKey,
        /// The signal page.
        page: PageId,
        /// The slot.
        slot: u16,
        /// Zero.
        reserved: Zero<6>,
    } []
    /// Jobs.
    140 Run since 1 from Broker fds [] flags 0 {} [
        /// The jobs, in order.
        jobs: DriverJob, max limits::BATCH_JOBS;
        /// Their operands.
        operands: DriverOperand, max limits::BATCH_JOBS * limits::JOB_OPERANDS;
        /// Their parameters.
        params: DriverParam, max limits::BATCH_JOBS * limits::JOB_PARAMS;
        /// What they wait for.
        waits: DriverWait, max limits::BATCH_JOBS * limits::JOB_WAITS;
        /// The bytes of their byte parameters.
        bytes: u8, max limits::BATCH_BYTES;
    ]
    /// End a job that has not started.
    141 CancelJob since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
        /// The cause it ends with.
        cause: CauseId,
        /// The code it ends with.
        code: ErrorCode,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Let jobs go first that somebody more important waits for.
    142 Boost since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The last job that it concerns.
        point: Point,
        /// The priority of who waits.
        priority: u8,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// How a point ended that was asked about.
    143 PointEnded since 1 from Broker fds [] flags 0 {
        /// The timeline.
        timeline: TimelineKey,
        /// The point.
        point: Point,
        /// Its cause, if it failed.
        cause: CauseId,
        /// Its code, if it failed; 0 is ok.
        code: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// A queue has a ring: take entries from it. Answered by RingReady.
    150 AttachRing since 1 from Broker fds ["ring"] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// Entries of each ring.
        depth: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Entries of a queue reach a range of an object, which is mapped, at an address; sent again when *foreign* changes.
    /// Answered by Bound, each time.
    151 Bind since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The object.
        object: ObjectKey,
        /// First byte of the range in the object.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The address of the first byte.
        address: u64,
        /// What entries may do there.
        access: Access,
        /// 1: another domain may write there; engines go through private windows.
        foreign: u8,
        /// Zero.
        reserved: Zero<6>,
    } []
    /// Entries reach nothing at that address any more. Answered by Unbound once none that has begun uses it.
    152 Unbind since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The address of the first byte.
        address: u64,
    } []
    /// Entries of a queue reach its client's own memory in these windows, where nothing is bound. Answered by WindowsSet.
    153 AttachMemory since 1 from Broker fds ["memory"] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
    } [
        /// The windows.
        windows: Window, max limits::RING_WINDOWS;
    ]
    /// Other windows, in place of those there are. Answered by WindowsSet.
    154 SetWindows since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
    } [
        /// The windows.
        windows: Window, max limits::RING_WINDOWS;
    ]
}
