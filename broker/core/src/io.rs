//! All that can happen to the broker ([`Input`]) and all it can do ([`Effect`]).
//!
//! Both enums are closed. The shell (`vgemd`'s broker role) turns sockets, timers and pidfds into inputs, one at
//! a time, and carries the effects out in order. Core never sees an fd: an [`Attach`] says which fd belongs to a
//! message and the shell finds it. Outcomes that only the kernel knows come back as inputs.

use vgem_proto::codec::Malformed;
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{
    CauseId, DeviceId, DomainId, InstanceId, ObjectKey, PageId, Point, PorterId, Time, TimelineKey,
};
use vgem_proto::message::Head;
use vgem_proto::message::client::{ClientMessage, Traced};
use vgem_proto::message::driver::DriverMessage;
use vgem_proto::rights::{Access, HugePages};
use vgem_proto::snapshot::Topic;
use vgem_proto::user_queue::Depth;

use crate::config::Policy;

mod attach;
mod numbers;

pub use self::attach::Attach;
pub use self::numbers::{Arrival, ArrivalId, LinkId, PairId};

/// By which way a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its process connected: the kernel says who it is.
    Socket,
    /// Control asked for it: a message bus says who it is. It never administers (M-206) nor observes (M-232),
    /// whoever it is.
    Bus,
    /// Control asked for it, for somebody who may administer: it does, whoever it is (M-235).
    BusAdmin,
}

/// What the kernel says about the process behind a connection, or a message bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFacts {
    /// How it came.
    pub way: Way,
    /// Its user.
    pub uid: u32,
    /// Its process, for people; never proof.
    pub pid: u32,
    /// The domain of the listener or uid.
    pub domain: DomainId,
    /// 128 fresh random bits that will name the session: core has no randomness of its own.
    pub token: [u64; 2],
}

/// How an instance ended, for causes and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceEnd {
    /// The process ended with this code, or by this signal (negative).
    Exited(i32),
    /// It broke the protocol.
    Broke(String),
    /// The link closed while the process lived; the shell has killed it.
    HungUp,
    /// It was killed and its process does not end: [`Effect::LeaveInstance`] was carried out.
    HeldUp,
}

/// What the fence pages of a dead instance show of one of its timelines: the furthest slot of all observers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The timeline.
    pub timeline: TimelineKey,
    /// The last point the instance signalled.
    pub value: Point,
    /// When that was, as it says.
    pub at: Time,
    /// The failures still in the slot's ring.
    pub failures: Vec<(Point, Failure)>,
    /// Whether there were more, before these.
    pub forgets: bool,
}

/// What a slot shows that a dead instance could see: it may have begun what waited for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The instance's number of the page.
    pub page: PageId,
    /// The slot.
    pub slot: u16,
    /// Generation of the timeline in it; 0 is none.
    pub generation: u32,
    /// The last point signalled.
    pub value: Point,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client connected.
    Connected {
        /// The connection.
        link: LinkId,
        /// Who it is.
        peer: PeerFacts,
    },
    /// A client sent a message.
    Request {
        /// The connection.
        link: LinkId,
        /// The head.
        head: Head,
        /// The message.
        message: ClientMessage,
    },
    /// A client sent bytes that are no message, or a packet longer than the limit.
    BadRequest {
        /// The connection.
        link: LinkId,
        /// The request id, as far as it could be read.
        request: u64,
        /// What was wrong.
        fault: BadRequest,
    },
    /// The configuration was read again.
    Policy(Box<Policy>),
    /// A domain has its listening socket; whoever comes through it is in that domain.
    DoorOpened {
        /// The domain.
        domain: DomainId,
        /// Where the socket is.
        path: String,
    },
    /// A domain cannot have a listening socket.
    DoorFailed {
        /// The domain.
        domain: DomainId,
        /// Why.
        why: String,
    },
    /// A client's connection is gone, for whatever reason.
    Hangup {
        /// The connection.
        link: LinkId,
    },
    /// A client has taken every packet that was sent to it (its socket's send queue is empty). The fds in them no
    /// longer count as unreceived. Needed only after a [`Effect::Reply`] with an [`Attach`] other than `None`, and
    /// as an answer to [`Effect::CheckReceived`]; saying it more often does no harm.
    Received {
        /// The connection.
        link: LinkId,
    },
    /// A message with fds could not be sent to a client, who was told so: what it was to have is not there. Said
    /// before any other request of that client is handed in.
    Undelivered {
        /// The connection.
        link: LinkId,
        /// The message.
        message: ClientMessage,
    },
    /// A client may not have taken every packet that was sent to it: an answer to [`Effect::CheckReceived`], and
    /// otherwise whenever it is known to have taken some more.
    Unreceived {
        /// The connection.
        link: LinkId,
        /// At most so many fds are unread.
        fds: u64,
        /// The oldest of these was sent then.
        since: Time,
    },
    /// The keeper started a porter; its link is connected, and its client's end of the channel can be attached.
    PorterStarted {
        /// The porter.
        porter: PorterId,
        /// Its process, for people.
        pid: u32,
    },
    /// The keeper could not start a porter.
    PorterFailed {
        /// The porter.
        porter: PorterId,
        /// Why.
        why: String,
    },
    /// A porter's process has ended.
    PorterGone {
        /// The porter.
        porter: PorterId,
    },
    /// A porter brought memory that its client handed over.
    Brought {
        /// The porter.
        porter: PorterId,
        /// The client's number of the Import.
        request: u64,
        /// What the memory is.
        arrival: Arrival,
        /// What the client's fd allows.
        access: Access,
    },
    /// A doorman says that what its client handed over is a listening socket, and an fd that has not hung up.
    DoorFits {
        /// The doorman.
        porter: PorterId,
        /// The client's number of the CreateDomain.
        request: u64,
        /// Where the socket is, as far as that is a path.
        path: String,
    },
    /// The listening socket of a doorman takes no more connections.
    DoorShut {
        /// The doorman.
        porter: PorterId,
        /// Why, in words that it was told.
        why: String,
    },
    /// The fd that a doorman's domain lives as long as has hung up.
    DoorEnds {
        /// The doorman.
        porter: PorterId,
    },
    /// A porter says that what its client handed over cannot be what it was to be.
    Unfit {
        /// The porter.
        porter: PorterId,
        /// The client's number of the Import.
        request: u64,
        /// Why.
        refusal: Refusal,
    },
    /// [`Effect::MakeObject`] or [`Effect::TakeArrival`] was carried out, or the kernel refused it with this errno.
    ObjectMade {
        /// The object.
        object: ObjectKey,
        /// The inode of its memory, for people, or the errno.
        outcome: Result<u64, i32>,
    },
    /// [`Effect::Seal`] was carried out, or failed with this errno.
    Sealed {
        /// The object.
        object: ObjectKey,
        /// The outcome.
        outcome: Result<(), i32>,
    },
    /// Somebody changed the owner or the mode of an object's inode.
    Tampered {
        /// The object.
        object: ObjectKey,
        /// What was found.
        what: String,
    },
    /// [`Effect::CheckPopulated`] was carried out: whether every page is there.
    PopulatedChecked {
        /// The object.
        object: ObjectKey,
        /// The answer.
        populated: bool,
    },
    /// The keeper keeps and pins an object ([`Effect::Keep`]).
    Kept {
        /// The object.
        object: ObjectKey,
        /// Bytes really pinned.
        pinned: u64,
    },
    /// The keeper has let an object go ([`Effect::Drop`]).
    Dropped {
        /// The object.
        object: ObjectKey,
    },
    /// An export of this object may have been closed somewhere (a hint), or all should be looked at (`None`).
    ExportHint {
        /// The object.
        object: Option<ObjectKey>,
    },
    /// [`Effect::Probe`] was carried out: whether the broker's fd is the only open file of the object.
    Probed {
        /// The object.
        object: ObjectKey,
        /// The answer.
        free: bool,
    },
    /// [`Effect::Free`] was carried out; `false` if a new reference showed up in the last moment.
    Freed {
        /// The object.
        object: ObjectKey,
        /// Whether it is gone.
        gone: bool,
    },
    /// [`Effect::MakeRing`] was carried out, or failed with this errno.
    RingMade {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The errno.
        outcome: Result<(), i32>,
    },
    /// [`Effect::CheckRing`] was carried out: whether every page is there.
    RingChecked {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// Whether it is.
        populated: bool,
    },
    /// [`Effect::MakePair`] was carried out, or failed with this errno.
    PairMade {
        /// The pair.
        pair: PairId,
        /// The outcome.
        outcome: Result<(), i32>,
    },
    /// The caller's own domain is known beforehand (user and embedded mode): start its instances.
    Prestart {
        /// The domain.
        domain: DomainId,
    },
    /// The keeper started an instance; its link is connected.
    InstanceStarted {
        /// The instance.
        instance: InstanceId,
        /// Its process, for people.
        pid: u32,
    },
    /// The keeper could not start an instance.
    InstanceFailed {
        /// The instance.
        instance: InstanceId,
        /// Why.
        why: String,
    },
    /// A driver sent a message.
    Driver {
        /// The instance.
        instance: InstanceId,
        /// The message.
        message: DriverMessage,
    },
    /// An instance is gone: its process has ended (the shell has seen its pidfd) and its pages were read.
    InstanceGone {
        /// The instance.
        instance: InstanceId,
        /// How.
        end: InstanceEnd,
        /// What its pages show.
        settled: Vec<Settled>,
        /// What the pages show that it observed; needed after [`Effect::KillInstance`] only.
        seen: Vec<Seen>,
    },
    /// The process of an instance that was left has ended.
    InstanceReleased {
        /// The instance.
        instance: InstanceId,
    },
    /// [`Effect::DrawToken`] was carried out.
    TokenDrawn {
        /// What it is for.
        id: u64,
        /// 128 random bits.
        token: [u64; 2],
    },
    /// [`Effect::CheckSight`] was carried out.
    SightChecked {
        /// The job's queue.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
        /// Of what it waits for, what is not shown where it looks.
        hidden: Vec<TimelineKey>,
    },
    /// [`Effect::Look`] was carried out: what the signaller of a timeline claims there.
    Looked {
        /// The timeline.
        timeline: TimelineKey,
        /// The last point signalled; 0 if no such timeline is shown there.
        value: Point,
        /// The failures still in the ring.
        failures: Vec<(Point, Failure)>,
    },
    /// The moment [`crate::Broker::next_deadline`] named has come, or nothing else happened.
    Tick,
}

/// How much of the broker's state may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    All,
    /// What belongs to one domain.
    Domain(DomainId),
}

/// What was wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// Not a message.
    Malformed(Malformed),
    /// Longer than the limit, bytes.
    TooLarge {
        /// Its length.
        len: u64,
    },
}

/// Something the shell must do.
#[derive(Debug)]
#[must_use]
pub enum Effect {
    /// Send a message to a client. If the fds cannot be had or sent, send Refused{System} for `request` instead, and
    /// say so by [`Input::Undelivered`].
    Reply {
        /// The connection.
        link: LinkId,
        /// The request it answers.
        request: u64,
        /// The message.
        message: ClientMessage,
        /// The fds.
        attach: Attach,
    },
    /// Answer a request for a page of the broker's state: take [`crate::Broker::snapshot`] with these arguments,
    /// at once, and send it as `Page`. Core knows no JSON and no limit of a page in bytes.
    Inspect {
        /// The connection.
        link: LinkId,
        /// The request it answers.
        request: u64,
        /// How much of the state this client may see.
        scope: Scope,
        /// Which part.
        topic: Topic,
        /// Where the previous page ended.
        cursor: u64,
    },
    /// Close a client's connection after what was queued for it; [`Input::Hangup`] follows.
    Disconnect {
        /// The connection.
        link: LinkId,
        /// Why, for the log.
        why: String,
    },
    /// Make the memory of an object; [`Input::ObjectMade`] follows.
    MakeObject {
        /// Whether it will be sealed against writing ([`Effect::Seal`]).
        sealable: bool,
        /// The object.
        object: ObjectKey,
        /// Bytes.
        len: u64,
        /// Which pages.
        huge: HugePages,
        /// A name for people, already made harmless.
        name: String,
    },
    /// Look whether every page of an object is there; [`Input::PopulatedChecked`] follows.
    CheckPopulated {
        /// The object.
        object: ObjectKey,
    },
    /// Give the keeper a duplicate and have it pinned; [`Input::Kept`] follows.
    Keep {
        /// The object.
        object: ObjectKey,
        /// Bytes.
        len: u64,
    },
    /// Have the keeper let go; [`Input::Dropped`] follows.
    Drop {
        /// The object.
        object: ObjectKey,
    },
    /// From now on watch an object, which nothing but exports may keep, for those that close; [`Input::ExportHint`] may
    /// follow at any time. The probe that is asked for next finds what closed before.
    Watch {
        /// The object.
        object: ObjectKey,
    },
    /// Look whether any other open file of an object exists; [`Input::Probed`] follows.
    Probe {
        /// The object.
        object: ObjectKey,
    },
    /// Take the lease, punch, close; [`Input::Freed`] follows.
    Free {
        /// The object.
        object: ObjectKey,
    },
    /// Make a pair of pages; [`Input::PairMade`] follows.
    MakePair {
        /// The pair.
        pair: PairId,
    },
    /// Make the memory of a queue's ring; [`Input::RingMade`] follows.
    MakeRing {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// How deep.
        depth: Depth,
    },
    /// Look whether every page of a ring's memory is there; [`Input::RingChecked`] follows.
    CheckRing {
        /// The queue's timeline.
        timeline: TimelineKey,
    },
    /// Forget the memory of a queue's ring: unmap and close the broker's side.
    DropRing {
        /// The queue's timeline.
        timeline: TimelineKey,
    },
    /// Say in the memory of a queue's ring that it is over, and wake its client.
    KillRing {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// What becomes of what was in it.
        failure: Failure,
    },
    /// Forget a pair of pages: unmap and close the broker's side.
    DropPair {
        /// The pair.
        pair: PairId,
    },
    /// Bring a slot of a dead signaller to its settled state and kill what comes after it; if it was yet to show the
    /// timeline it does now.
    Settle {
        /// The pair.
        pair: PairId,
        /// The slot.
        slot: u16,
        /// What it shows.
        timeline: TimelineKey,
        /// The last point that was signalled.
        value: Point,
        /// When that was.
        at: Time,
        /// Its failures.
        failures: Vec<(Point, Failure)>,
        /// Every point from here on has failed.
        dead_from: Point,
        /// With this code.
        code: ErrorCode,
        /// And this cause.
        cause: CauseId,
    },
    /// Draw 128 random bits; [`Input::TokenDrawn`] follows.
    DrawToken {
        /// What they are for.
        id: u64,
    },
    /// Read a slot of a client's primary page, or one in which a client sees its user queue; [`Input::Looked`] follows.
    Look {
        /// The timeline.
        timeline: TimelineKey,
        /// The page.
        pair: PairId,
        /// The slot.
        slot: u16,
    },
    /// Show what a client's primary page shows in a slot where the client has yet to show it, if it signalled well.
    Raise {
        /// The timeline.
        timeline: TimelineKey,
        /// The primary page and the slot in it.
        primary: (PairId, u16),
        /// The page and the slot of an observer.
        place: (PairId, u16),
    },
    /// Look whether an instance sees what a job of it waits for; [`Input::SightChecked`] follows.
    CheckSight {
        /// The job's queue.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
        /// What it waits for, and where it sees that: page and slot.
        sights: Vec<(TimelineKey, Point, (PairId, u16))>,
    },
    /// Store this value into NEWS of all primary pages of a client, each in its interest page.
    News {
        /// The primary pages.
        pairs: Vec<PairId>,
        /// The value.
        news: u32,
    },
    /// Fill a slot that nobody signals in yet from a client's primary page, after the last [`Effect::News`] of that client.
    Fill {
        /// The primary page, and the slot there.
        primary: (PairId, u16),
        /// The page in which the slot is.
        pair: PairId,
        /// The slot.
        slot: u16,
        /// The timeline.
        timeline: TimelineKey,
    },
    /// Kill the rest of a timeline in one slot, whose signaller lives.
    KillSlot {
        /// The pair.
        pair: PairId,
        /// The slot.
        slot: u16,
        /// Every point from here on has failed.
        dead_from: Point,
        /// With this code.
        code: ErrorCode,
        /// And this cause.
        cause: CauseId,
    },
    /// Bring a slot of a dead signaller to its settled state, if it shows that timeline already: another instance goes
    /// on with it.
    Level {
        /// The pair.
        pair: PairId,
        /// The slot.
        slot: u16,
        /// The timeline.
        timeline: TimelineKey,
        /// The last point that ended.
        value: Point,
        /// When that was.
        at: Time,
        /// Its failures.
        failures: Vec<(Point, Failure)>,
    },
    /// Lift the verdict of an [`Effect::Settle`] from a slot, before another timeline is shown there.
    Revive {
        /// The pair.
        pair: PairId,
        /// The slot.
        slot: u16,
    },
    /// Kill a whole page: its signaller will never publish anything more.
    KillPage {
        /// The pair.
        pair: PairId,
        /// The code.
        code: ErrorCode,
        /// The cause.
        cause: CauseId,
    },
    /// Have the keeper start an instance; InstanceStarted or InstanceFailed follows.
    StartInstance {
        /// Its number.
        instance: InstanceId,
        /// Which device.
        device: DeviceId,
        /// For which domain.
        domain: DomainId,
    },
    /// Kill an instance; [`Input::InstanceGone`] follows.
    KillInstance {
        /// The instance.
        instance: InstanceId,
        /// Why, for the log.
        why: String,
    },
    /// Wait no longer for the process of an instance that was killed: read its pages as if it had ended.
    /// [`Input::InstanceGone`] follows, with [`InstanceEnd::HeldUp`], and [`Input::InstanceReleased`] when it has.
    LeaveInstance {
        /// The instance.
        instance: InstanceId,
    },
    /// Send a message to an instance. If the fds cannot be had the message is left out: the driver will answer
    /// for what it lacks.
    ToDriver {
        /// The instance.
        instance: InstanceId,
        /// The message.
        message: DriverMessage,
        /// The fds.
        attach: Attach,
    },
    /// Send an instance jobs: those that [`crate::Broker::run`] gives for this number, at once. Core keeps them, because
    /// another instance may have to be sent them again.
    Run {
        /// The instance.
        instance: InstanceId,
        /// The number.
        number: u32,
    },
    /// Something happened that an operator should know, and every client that monitors and may see it.
    Log {
        /// Whose it is; `None` is the broker's as a whole.
        domain: Option<DomainId>,
        /// What.
        event: Event,
    },
    /// From now on tell this client of every [`Effect::Log`] in its scope.
    Monitor {
        /// The connection.
        link: LinkId,
        /// What it may see.
        scope: Scope,
    },
    /// From now on tell this client of every [`Effect::Traced`] in its scope.
    Trace {
        /// The connection.
        link: LinkId,
        /// What it may see.
        scope: Scope,
    },
    /// Jobs of a domain have ended, and somebody traces that.
    Traced {
        /// The domain.
        domain: DomainId,
        /// The jobs.
        traced: Traced,
        /// Which of their waits are for points of other domains.
        abroad: Vec<usize>,
    },
    /// Have the keeper make a listening socket for a domain; [`Input::DoorOpened`] or [`Input::DoorFailed`] follows.
    OpenDoor {
        /// The domain.
        domain: DomainId,
        /// Its name.
        name: String,
    },
    /// Let nobody in through the listening socket of a domain any more, and have the keeper take it away.
    CloseDoor {
        /// The domain.
        domain: DomainId,
    },
    /// Have the keeper start a porter; PorterStarted or PorterFailed follows.
    StartPorter {
        /// Its number.
        porter: PorterId,
    },
    /// Have the keeper start a doorman; as with [`Effect::StartPorter`].
    StartDoorman {
        /// Its number.
        porter: PorterId,
    },
    /// From now on let in whom a doorman brings, into this domain.
    LetIn {
        /// The doorman.
        porter: PorterId,
        /// The domain.
        domain: DomainId,
    },
    /// Kill a porter or a doorman that was started; [`Input::PorterGone`] follows, or never if it hangs in the kernel. Nothing that
    /// it still says matters.
    KillPorter {
        /// The porter.
        porter: PorterId,
        /// Why, for the log.
        why: String,
    },
    /// Make an object of the memory that arrived; [`Input::ObjectMade`] follows. The arrival is used up either way. If
    /// the same inode has become an object since it arrived, that is EEXIST: it would be two objects otherwise.
    TakeArrival {
        /// The arrival.
        arrival: ArrivalId,
        /// The object it becomes.
        object: ObjectKey,
    },
    /// Close the memory that arrived.
    DropArrival {
        /// The arrival.
        arrival: ArrivalId,
    },
    /// Seal an object's memory against all writing but that of the mappings there are; [`Input::Sealed`] follows.
    Seal {
        /// The object.
        object: ObjectKey,
    },
    /// Destroy the content of an object whose inode was tampered with, whoever has it.
    Punch {
        /// The object.
        object: ObjectKey,
    },
    /// Have the kernel collect fds that lie in sockets nobody can reach any more: they may be what keeps an export.
    CollectInFlight,
    /// Look whether a client has taken every packet that was sent to it; [`Input::Received`] or
    /// [`Input::Unreceived`] follows.
    CheckReceived {
        /// The connection.
        link: LinkId,
    },
}

pub use vgem_proto::snapshot::Event;

/// What [`crate::Broker::apply`] wants done, in order.
pub type Effects = Vec<Effect>;
