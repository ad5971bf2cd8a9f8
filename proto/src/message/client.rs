//! Messages between a client and the broker. Clients never send fds.

message_table! {
    enum ClientMessage;
    uses {
        use crate::domains::{self, QuotaLimit};
        use crate::error::ErrorCode;
        use crate::jobs::{
            ClientJob, ClientOperand, ClientParam, ObservedPoint, PoisonedRange, ShownTimeline, TracedJob,
            TracedWait, Wait,
        };
        use crate::rights::{Access, HugePages, Rights, TimelineRights};
        use crate::snapshot::Topic;
        use crate::user_queue::Window;
    }

    /// The greeting, first and once.
    1 Hello since 1 from Client fds [] flags 0 {
        /// Lowest version the client speaks.
        version_min: u16,
        /// Highest version the client speaks.
        version_max: u16,
        /// Zero.
        reserved: Zero<4>,
        /// Feature bits the client wants.
        features: u64,
    } [
        /// What the client calls itself; an allegation, for people.
        name: u8, max limits::NAME_LEN;
    ]
    /// Makes equal objects, all or none; answered by ObjectCreated.
    10 CreateObject since 1 from Client fds [] flags 0 {
        /// Bytes of each; a multiple of the page size.
        len: u64,
        /// Not 0: a sealed result, which only this device may write.
        writer: DeviceId,
        /// How many; 0 is one.
        count: u32,
        /// Which pages.
        huge: HugePages,
        /// Zero.
        reserved: Zero<3>,
    } [
        /// A name for people.
        name: u8, max limits::NAME_LEN;
    ]
    /// Says that every page of these objects is there; answered by Committed.
    11 Commit since 1 from Client fds [] flags 0 {} [
        /// The objects.
        objects: Handle, max limits::OBJECTS_AT_ONCE;
    ]
    /// Gives a handle up; answered by Done.
    12 CloseObject since 1 from Client fds [] flags 0 {
        /// The object.
        object: Handle,
    } []
    /// Asks for an fd of an object; answered by Exported.
    13 Export since 1 from Client fds [] flags 0 {
        /// The object.
        object: Handle,
        /// What the fd allows.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// Asks for a channel to a porter, which takes fds; answered by PorterOpened. With the flag OPEN_DOORMAN to a doorman,
    /// which takes the listening socket of one domain, for who administers.
    14 OpenPorter since 1 from Client fds [] flags 1 {} []
    /// Asks for a handle of the memory whose fd goes to the porter under the same request; answered by Imported.
    15 Import since 1 from Client fds [] flags 0 {} [
        /// A name for people, for memory that is not an object yet.
        name: u8, max limits::NAME_LEN;
    ]
    /// Asks what an access to an object has to wait for; answered by Observed.
    16 Observe since 1 from Client fds [] flags 0 {
        /// The object.
        object: Handle,
        /// The access that is to come.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// Says that the client itself has replaced a range: what failed there is forgotten; answered by Done.
    17 Rewritten since 1 from Client fds [] flags 0 {
        /// The object.
        object: Handle,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    } []
    /// Asks for the list of devices; answered by Devices.
    20 ListDevices since 1 from Client fds [] flags 0 {} []
    /// Asks how a device describes itself; answered by Described.
    21 Describe since 1 from Client fds [] flags 0 {
        /// The device.
        device: DeviceId,
    } []
    /// Opens a queue; answered by QueueOpened when the device's instance is up.
    22 OpenQueue since 1 from Client fds [] flags 1 {
        /// The device.
        device: DeviceId,
        /// Most jobs in flight; 0 is the default.
        depth: u32,
        /// 0, the ordinary one, to 7: which queues of a device go first.
        priority: u8,
        /// Zero.
        reserved: Zero<3>,
    } []
    /// Closes a queue; its jobs finish; answered by Done.
    23 CloseQueue since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
    } []
    /// Makes a timeline that the client signals; answered by TimelineOpened.
    24 CreateTimeline since 1 from Client fds [] flags 0 {} [
        /// A name for people.
        name: u8, max limits::NAME_LEN;
    ]
    /// Gives a handle of a timeline up; the signaller's ends the timeline; answered by Done.
    25 CloseTimeline since 1 from Client fds [] flags 0 {
        /// The timeline.
        timeline: TimelineHandle,
    } []
    /// Asks for a token with which another client gets a handle; answered by TimelineExported.
    26 ExportTimeline since 1 from Client fds [] flags 0 {
        /// The timeline.
        timeline: TimelineHandle,
        /// What the new handle allows.
        rights: TimelineRights,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Asks for the handle that a token is for; answered by TimelineOpened.
    27 ImportTimeline since 1 from Client fds [] flags 0 {
        /// The token.
        token: [u64; 2],
    } []
    /// Asks where the client sees a timeline; answered by TimelineObserved.
    28 ObserveTimeline since 1 from Client fds [] flags 0 {
        /// The timeline.
        timeline: TimelineHandle,
    } []
    /// Asks where to show the timelines that the client signals; answered by Shown.
    29 TakeShown since 1 from Client fds [] flags 0 {} []
    /// Submits a batch; answered by Refused, or with SUBMIT_REPLY by Accepted.
    30 Submit since 1 from Client fds [] flags 1 {} [
        /// The jobs, in order.
        jobs: ClientJob, max limits::BATCH_JOBS;
        /// Their operands.
        operands: ClientOperand, max limits::BATCH_JOBS * limits::JOB_OPERANDS;
        /// Their parameters.
        params: ClientParam, max limits::BATCH_JOBS * limits::JOB_PARAMS;
        /// Their explicit waits.
        waits: Wait, max limits::BATCH_JOBS * limits::JOB_WAITS;
        /// The bytes of their byte parameters.
        bytes: u8, max limits::BATCH_BYTES;
    ]
    /// Asks to end a job that has not started; answered by Cancelling.
    31 Cancel since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
        /// The job's point.
        point: Point,
    } []
    /// Promises that points of a timeline will be signalled in time; answered by Refused, or with PROMISE_REPLY by Done.
    32 Promise since 1 from Client fds [] flags 1 {
        /// The timeline.
        timeline: TimelineHandle,
        /// The last point that is promised.
        point: Point,
        /// Until when it will have been signalled.
        until: Time,
    } []
    /// Tells why a point is about to fail; answered by CauseIssued.
    33 FailPoint since 1 from Client fds [] flags 0 {
        /// The timeline.
        timeline: TimelineHandle,
        /// The point.
        point: Point,
        /// What went wrong.
        code: ErrorCode,
        /// Zero.
        reserved: Zero<4>,
    } [
        /// In words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// Asks how a point stands; answered by PointState.
    34 QueryPoint since 1 from Client fds [] flags 0 {
        /// The timeline.
        timeline: TimelineHandle,
        /// The point.
        point: Point,
    } []
    /// Gives a queue a ring, on which the client schedules by itself; answered by RingAttached with its memory.
    35 AttachRing since 1 from Client fds [] flags 0 {
        /// The queue; its instance must be up.
        queue: QueueHandle,
        /// Entries of each ring: a power of two, 8 to 4096; 0 is the default.
        depth: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Has the driver of a queue with a ring reach a range of an object at an address; answered by Done when it does.
    36 Bind since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
        /// The object; it stays as long as it is bound.
        object: Handle,
        /// First byte of the range in the object.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The address of the first byte, as entries name it.
        address: u64,
        /// What entries may do there.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// Undoes a Bind; answered by Done when the driver reaches nothing there any more.
    37 Unbind since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
        /// The address of the first byte.
        address: u64,
    } []
    /// Has entries of a queue with an instance of the client's own reach the client's own memory, where nothing is bound;
    /// the fd of that memory goes to the porter under the same request; answered by Done when it is so.
    38 AttachMemory since 1 from Client fds [] flags 0 {
        /// The queue; it has a ring.
        queue: QueueHandle,
    } [
        /// Where entries may reach it; in the order of their addresses, apart from each other.
        windows: Window, max limits::RING_WINDOWS;
    ]
    /// Says anew where entries reach the client's own memory; answered by Done when they reach nothing else of it.
    39 SetWindows since 1 from Client fds [] flags 0 {
        /// The queue; its client's memory is attached.
        queue: QueueHandle,
    } [
        /// In the order of their addresses, apart from each other; none: nowhere.
        windows: Window, max limits::RING_WINDOWS;
    ]
    /// Asks what is behind a cause; answered by Explained.
    40 Explain since 1 from Client fds [] flags 0 {
        /// The cause.
        cause: CauseId,
    } []
    /// Asks for a page of the broker's state, as JSON; answered by Page.
    41 Inspect since 1 from Client fds [] flags 0 {
        /// Where the previous page ended; 0 is the start.
        cursor: u64,
        /// Which part.
        topic: Topic,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// Asks to be told what happens from now on; answered by Done, then Event after Event.
    42 Monitor since 1 from Client fds [] flags 0 {} []
    /// Has the driver of a queue take entries from its ring, whose memory the client has populated; answered by Done when
    /// it looks there.
    43 CommitRing since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
    } []
    /// Asks to be told of every job that ends from now on; answered by Done, then Traced after Traced.
    44 Trace since 1 from Client fds [] flags 0 {} []
    /// Makes a domain with a name and a listening socket of its own, for who administers; answered by DomainCreated. It ends
    /// with its creator's session, unless the flag DOMAIN_STAYS is set. With the flag DOMAIN_AT the socket is the one that goes
    /// to the client's doorman under the same request, and the domain ends when the fd that goes with it hangs up.
    50 CreateDomain since 1 from Client fds [] flags 3 {} [
        /// Its name.
        name: u8, max domains::NAME_LEN;
        /// What it may hold, where that is not what everybody may.
        quotas: QuotaLimit, max domains::QUOTAS_MOST;
        /// What it may use, a device or DEVICE/OPERATION in each line; empty: what everybody may.
        uses: u8, max domains::USES_LEN;
    ]
    /// Lets nobody new into a domain that was made with CreateDomain; it ends with its last client; answered by Done.
    51 DrainDomain since 1 from Client fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } []
    /// Ends a domain that was made with CreateDomain, and disconnects its clients; answered by Done.
    52 CloseDomain since 1 from Client fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } []
    /// Says anew what a domain may hold, for who administers; answered by Done.
    53 SetQuota since 1 from Client fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } [
        /// The quotas that change.
        quotas: QuotaLimit, max domains::QUOTAS_MOST;
    ]
    /// Disconnects a client, for who administers; answered by Done.
    54 Disconnect since 1 from Client fds [] flags 0 {
        /// Its number, as Welcome has it.
        client: u64,
    } []

    /// Answers Hello.
    101 Welcome since 1 from Broker fds [] flags 0 {
        /// 128 bits that name this session.
        token: [u64; 2],
        /// Feature bits in force.
        features: u64,
        /// The domain the client belongs to.
        domain: DomainId,
        /// The client's number, for people and tools.
        client: u64,
        /// The version in force.
        version: u16,
        /// Zero.
        reserved: Zero<2>,
        /// Longest message, bytes.
        message_len: u32,
    } []
    /// The request was carried out.
    102 Done since 1 from Broker fds [] flags 0 {} []
    /// The request was not carried out and nothing changed.
    103 Refused since 1 from Broker fds [] flags 0 {
        /// Why.
        code: ErrorCode,
        /// Which job of the batch; 65535 is none.
        job: u16,
        /// Which operand or parameter; 65535 is none.
        part: u16,
        /// What was asked.
        value: u64,
        /// What is allowed.
        limit: u64,
        /// For a refused batch: the cause its points failed with.
        cause: CauseId,
    } [
        /// The same in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// Answers CreateObject. Each fd is a read-write export, or a read-only one of a sealed result.
    110 ObjectCreated since 1 from Broker fds ["export"] each objects flags 0 {
        /// Bytes of each.
        len: u64,
        /// What the handles allow.
        rights: Rights,
        /// Zero.
        reserved: Zero<4>,
    } [
        /// The client's handles.
        objects: Handle, max limits::OBJECTS_AT_ONCE;
    ]
    /// Answers Commit: the objects are ready.
    111 Committed since 1 from Broker fds [] flags 0 {
        /// Bytes really pinned, of all of them; may be less than their length where RLIMIT_MEMLOCK forbids.
        pinned: u64,
    } []
    /// Answers Export.
    113 Exported since 1 from Broker fds ["export"] flags 0 {
        /// Bytes.
        len: u64,
    } []
    /// Answers OpenPorter. The fd is a connected socket on which the client hands fds to its porter.
    114 PorterOpened since 1 from Broker fds ["channel"] flags 0 {} []
    /// Answers Import.
    115 Imported since 1 from Broker fds [] flags 0 {
        /// The client's handle; the same one for the same memory.
        object: Handle,
        /// Bytes.
        len: u64,
        /// What the handle allows.
        rights: Rights,
        /// 1: the memory was no object before; populate and commit it. 2: it is ready.
        state: u32,
    } []
    /// Answers Observe: when these points have ended, the access may begin; what it finds then is as it should be, but for
    /// the poisoned ranges.
    116 Observed since 1 from Broker fds ["page" "interest"] each pages flags 0 {} [
        /// Pages that the client has not seen before, in the order of their fds.
        pages: PageId, max limits::OBSERVED_PAGES;
        /// The points.
        points: ObservedPoint, max limits::OBSERVED_POINTS;
        /// Ranges that a job which failed was to write and nobody has replaced since.
        poison: PoisonedRange, max limits::OBSERVED_POISON;
    ]
    /// Answers ListDevices.
    120 Devices since 1 from Broker fds [] flags 0 {} [
        /// Ids, in the order of the names.
        ids: DeviceId, max 256;
        /// Names, one per line.
        names: u8, max 256 * (limits::NAME_LEN + 1);
    ]
    /// Answers Describe.
    121 Described since 1 from Broker fds [] flags 0 {
        /// The device.
        device: DeviceId,
    } [
        /// The description (SPEC chapter "Descriptions").
        description: u8, max limits::DESCRIPTION_LEN;
    ]
    /// Answers OpenQueue. The fds come with the first queue in a page: the fence page, and the interest page.
    122 QueueOpened since 1 from Broker fds ["page" "interest"] optional true flags 0 {
        /// The client's handle.
        queue: QueueHandle,
        /// The client's number of the page.
        page: PageId,
        /// The queue's timeline; its generation is that of the slot.
        timeline: TimelineKey,
        /// Most jobs in flight.
        depth: u32,
        /// The slot in the page.
        slot: u16,
        /// Zero.
        reserved: Zero<2>,
    } []
    /// Answers CreateTimeline and ImportTimeline. The fds come with the first timeline in a signal page.
    123 TimelineOpened since 1 from Broker fds ["page" "interest"] optional true flags 0 {
        /// The client's handle.
        timeline: TimelineHandle,
        /// The timeline; its generation is that of its slots.
        key: TimelineKey,
        /// With the right SIGNAL: the client's number of the signal page, else 0.
        page: PageId,
        /// What the handle allows.
        rights: TimelineRights,
        /// With the right SIGNAL: the slot in the page, else 0.
        slot: u16,
        /// Zero.
        reserved: Zero<2>,
    } []
    /// Answers ExportTimeline.
    124 TimelineExported since 1 from Broker fds [] flags 0 {
        /// 128 bits that are good for one ImportTimeline.
        token: [u64; 2],
        /// Until when.
        until: Time,
    } []
    /// Answers ObserveTimeline. The fds come with the first timeline that is seen in a page.
    125 TimelineObserved since 1 from Broker fds ["page" "interest"] optional true flags 0 {
        /// The timeline; its generation is that of the slot.
        key: TimelineKey,
        /// The client's number of the page.
        page: PageId,
        /// The last point promised so far.
        promised: Point,
        /// The slot in the page.
        slot: u16,
        /// Zero.
        reserved: Zero<6>,
    } []
    /// Answers TakeShown.
    126 Shown since 1 from Broker fds ["page" "interest"] each pages flags 0 {
        /// The value of NEWS that this answers.
        news: u32,
        /// 1: there is more, ask again.
        more: u8,
        /// Zero.
        reserved: Zero<3>,
    } [
        /// New signal pages, in the order of their fds.
        pages: PageId, max limits::SHOWN_PAGES;
        /// Where to show a timeline, or to stop.
        places: ShownTimeline, max limits::SHOWN_PLACES;
        /// Signal pages that will not be used again: unmap them, after the places.
        dropped: PageId, max limits::SHOWN_PAGES;
    ]

    /// Answers Submit when it asked for an answer.
    130 Accepted since 1 from Broker fds [] flags 0 {} []
    /// Answers Cancel.
    131 Cancelling since 1 from Broker fds [] flags 0 {
        /// 0: not yet started, will end Cancelled; 1: running, ends when the driver says so; 2: has ended.
        state: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Answers FailPoint.
    132 CauseIssued since 1 from Broker fds [] flags 0 {
        /// The cause that the point is to fail with.
        cause: CauseId,
    } []
    /// Answers QueryPoint.
    133 PointState since 1 from Broker fds [] flags 0 {
        /// 0: nobody has promised it; 1: promised; 2: ended well; 3: failed.
        state: u32,
        /// The code, if it failed; 0 otherwise.
        code: u32,
        /// The cause, if it failed.
        cause: CauseId,
        /// The last point promised.
        promised: Point,
    } []
    /// Answers AttachRing. The fd is the memory of both rings, read-write.
    134 RingAttached since 1 from Broker fds ["ring"] flags 0 {
        /// The queue.
        queue: QueueHandle,
        /// Entries of each ring.
        depth: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Answers Explain.
    140 Explained since 1 from Broker fds [] flags 0 {
        /// The cause.
        cause: CauseId,
        /// When it happened.
        at: Time,
        /// The point that failed first, 0 if none.
        point: Point,
        /// The process at fault, 0 if unknown, or not to be told in this domain.
        pid: u32,
        /// What went wrong there.
        code: ErrorCode,
        /// The timeline of that point, all 0 if none.
        timeline: TimelineKey,
        /// The number of the client whose job or promise it was, 0 if none, or not to be told in this domain.
        client: u64,
    } [
        /// The device, if one.
        device: u8, max limits::NAME_LEN;
        /// What happened, in words.
        text: u8, max limits::TEXT_LEN;
        /// The object that the job was to write, by name or key, if one.
        object: u8, max limits::NAME_LEN;
    ]
    /// Answers Inspect.
    141 Page since 1 from Broker fds [] flags 0 {
        /// Cursor of the next page; 0 is the end.
        next: u64,
    } [
        /// A JSON array of entries of the topic.
        json: u8, max limits::MESSAGE_LEN;
    ]
    /// Something that happened, for a client that asked with Monitor. It answers no request.
    142 Event since 1 from Broker fds [] flags 0 {
        /// Events left out since the one before, because the client did not read them.
        lost: u64,
    } [
        /// The event, as a JSON object.
        json: u8, max limits::TEXT_LEN;
    ]
    /// Jobs that ended, for a client that asked with Trace. It answers no request.
    143 Traced since 1 from Broker fds [] flags 0 {
        /// Jobs left out since the message before, because the client did not read it.
        lost: u64,
    } [
        /// The jobs, in the order in which the broker heard of their ends.
        jobs: TracedJob, max limits::TRACED_JOBS;
        /// What they waited for, and what had not ended when they were submitted.
        waits: TracedWait, max limits::TRACED_WAITS;
    ]
    /// Answers CreateDomain.
    150 DomainCreated since 1 from Broker fds [] flags 0 {
        /// The domain.
        domain: DomainId,
    } [
        /// Where its socket is, as the daemon sees it; of a socket that the creator has bound, as that was bound.
        path: u8, max limits::TEXT_LEN;
    ]
}
