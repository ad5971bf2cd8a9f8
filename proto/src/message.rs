//! The message tables: one row gives a message's number, name, sender, fds and fields.
//!
//! Opcodes, structs, encoding, decoding and the rows that SPEC.md and the tests read all come from the tables at
//! the end of this file. There are three links: client and broker ([`client`]), driver and broker ([`driver`]),
//! keeper and broker ([`keeper`]). Opcode spaces are separate. A message that answers a request carries the
//! request's id; messages of the broker's own accord carry id 0.

use crate::codec::{Field, HEAD_LEN, Malformed, Reader, Writer};
use crate::ids::Time;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A client.
    Client,
    /// The broker.
    Broker,
    /// A driver instance.
    Driver,
    /// The keeper.
    Keeper,
}

/// One row of a message table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The opcode.
    pub opcode: u16,
    /// The name.
    pub name: &'static str,
    /// The version that introduced it.
    pub since: u16,
    /// Who sends it.
    pub sender: Sender,
    /// The fds that come along, by name; either all or, where `optional_fds`, none.
    pub fds: &'static [&'static str],
    /// Whether the fds may be absent.
    pub optional_fds: bool,
    /// Flags that may be set in the head.
    pub flags: u16,
    /// Bytes of the fixed part.
    pub fixed: usize,
    /// The fields of the fixed part, by name and size in bytes.
    pub fields: &'static [(&'static str, usize)],
    /// The types of the fields, by the names SPEC.md gives them.
    pub types: &'static [&'static str],
    /// The arrays, by name and stride in bytes.
    pub arrays: &'static [(&'static str, usize)],
    /// The types of the arrays' elements, by the names SPEC.md gives them.
    pub elements: &'static [&'static str],
    /// The most elements each array may have.
    pub most: &'static [usize],
}

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Bytes of the whole message.
    pub size: u32,
    /// Which message.
    pub opcode: u16,
    /// Flags of the message.
    pub flags: u16,
    /// The sender's number for the request; the answer repeats it.
    pub request: u64,
    /// When the sender stops waiting: absolute CLOCK_MONOTONIC; 0 is "do not wait".
    pub deadline: Time,
    /// Bytes of the fixed part.
    pub fixed: u16,
}

impl Head {
    /// The head at the start of `bytes`, without looking at the rest.
    ///
    /// # Errors
    /// [`Malformed`] when it is short, its size is not the number of bytes, or a reserved part is not zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let head = Self::take(r)?;
        if u64::from(head.size) != bytes.len() as u64 {
            return Err(Malformed::SizeMismatch { said: u64::from(head.size), got: bytes.len() as u64 });
        }
        Ok(head)
    }

    /// The request id in bytes that may be no message at all; 0 if they have no whole head. For answers to bad
    /// messages.
    #[must_use]
    pub fn request_of(bytes: &[u8]) -> u64 {
        let head = Reader::new(bytes).array::<HEAD_LEN>();
        head.ok().and_then(|head| Some(u64::from_le_bytes(*head.get(8..)?.first_chunk()?))).unwrap_or(0)
    }
}

impl Field for Head {
    const SIZE: usize = HEAD_LEN;
    fn put(&self, w: &mut Writer) {
        self.size.put(w);
        self.opcode.put(w);
        self.flags.put(w);
        self.request.put(w);
        self.deadline.put(w);
        self.fixed.put(w);
        w.raw(&[0; 6]);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let head = Self {
            size: u32::take(r)?,
            opcode: u16::take(r)?,
            flags: u16::take(r)?,
            request: u64::take(r)?,
            deadline: Time::take(r)?,
            fixed: u16::take(r)?,
        };
        if r.array::<6>()? != [0; 6] {
            return Err(Malformed::NonZeroTail);
        }
        Ok(head)
    }
}

macro_rules! message_table {
    (
        $(#[$mod_doc:meta])*
        mod $link:ident, enum $enum:ident;
        uses { $($import:tt)* }
        $(
            $(#[$doc:meta])*
            $opcode:literal $name:ident since $since:literal from $sender:ident
            fds [$($fd:literal)*] $(optional $optional:literal)? flags $flags:literal
            { $($(#[$fdoc:meta])* $field:ident : $fty:ty,)* }
            [ $($(#[$adoc:meta])* $array:ident : $aty:ty, max $limit:expr;)* ]
        )*
    ) => {
        $(#[$mod_doc])*
        pub mod $link {
            use super::{Head, Row, Sender};
            #[allow(unused_imports, reason = "each table uses its own choice of the common words")]
            use crate::codec::{self, Field, HEAD_LEN, Malformed, Reader, Writer, Zero};
            #[allow(unused_imports, reason = "each table uses its own choice of the common words")]
            use crate::{ids::*, limits};
            $($import)*

            $(
                $(#[$doc])*
                #[derive(Debug, Clone, PartialEq, Eq)]
                pub struct $name {
                    $($(#[$fdoc])* pub $field: $fty,)*
                    $($(#[$adoc])* pub $array: Vec<$aty>,)*
                }

                impl $name {
                    /// The opcode.
                    pub const OPCODE: u16 = $opcode;
                    /// Bytes of the fixed part, padded to 8.
                    pub const FIXED: usize =
                        (0usize $(+ <$fty as Field>::SIZE)* $(+ { let _ = stringify!($array); 8 })*).next_multiple_of(8);

                    /// The row of the table.
                    pub const ROW: Row = Row {
                        opcode: $opcode,
                        name: stringify!($name),
                        since: $since,
                        sender: Sender::$sender,
                        fds: &[$($fd,)*],
                        optional_fds: false $(|| $optional)?,
                        flags: $flags,
                        fixed: Self::FIXED,
                        fields: &[$((stringify!($field), <$fty as Field>::SIZE),)*],
                        types: &[$(stringify!($fty),)*],
                        arrays: &[$((stringify!($array), <$aty as Field>::SIZE),)*],
                        elements: &[$(stringify!($aty),)*],
                        most: &[$($limit,)*],
                    };

                    /// The message with this head data.
                    #[must_use]
                    pub fn encode(&self, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                        self.encode_into(Vec::with_capacity(256), request, deadline, flags)
                    }

                    /// As [`Self::encode`], in the storage of `buffer`.
                    #[must_use]
                    pub fn encode_into(&self, buffer: Vec<u8>, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                        let mut writer = Writer::reusing(buffer);
                        let w = &mut writer;
                        let fixed = u16::try_from(Self::FIXED).unwrap_or(u16::MAX);
                        Head { size: 0, opcode: $opcode, flags, request, deadline, fixed }.put(w);
                        $(self.$field.put(w);)*
                        $(codec::put_array_head(w, &self.$array);)*
                        w.pad8();
                        $(codec::put_array(w, &self.$array);)*
                        let size = u32::try_from(w.len()).unwrap_or(u32::MAX);
                        w.patch_u32(0, size);
                        writer.into_bytes()
                    }

                    fn decode_body(r: &mut Reader<'_>, fixed: usize) -> Result<Self, Malformed> {
                        let ($($field,)* $($array,)*) = codec::sized(r, fixed, Self::FIXED, |r| {
                            let _ = &r;
                            Ok(($(<$fty as Field>::take(r)?,)* $({ let _ = stringify!($array); (u32::take(r)?, u32::take(r)?) },)*))
                        })?;
                        codec::take_padding(r, fixed)?;
                        $(let $array = codec::take_array::<$aty>(r, $array.0, $array.1, stringify!($array), $limit)?;)*
                        Ok(Self { $($field,)* $($array,)* })
                    }
                }

                impl From<$name> for $enum {
                    fn from(message: $name) -> Self {
                        Self::$name(message)
                    }
                }
            )*

            /// Any message of this link.
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub enum $enum {
                $($(#[$doc])* $name($name),)*
            }

            /// The table of this link.
            pub const TABLE: &[Row] = &[$($name::ROW,)*];

            impl $enum {
                /// The row of this message.
                #[must_use]
                pub fn row(&self) -> &'static Row {
                    match self { $(Self::$name(_) => &$name::ROW,)* }
                }

                /// The bytes of this message.
                #[must_use]
                pub fn encode(&self, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                    match self { $(Self::$name(message) => message.encode(request, deadline, flags),)* }
                }

                /// The message in `bytes`, which came with `fds` fds from `sender`.
                ///
                /// # Errors
                /// [`Malformed`], naming what is wrong. Never panics, whatever the bytes.
                pub fn decode(bytes: &[u8], sender: Sender, fds: usize) -> Result<(Head, Self), Malformed> {
                    let head = Head::decode(bytes)?;
                    let row = TABLE
                        .iter()
                        .find(|row| row.opcode == head.opcode && row.sender == sender)
                        .ok_or(Malformed::UnknownOpcode(head.opcode))?;
                    if head.flags & !row.flags != 0 {
                        return Err(Malformed::UnknownFlags(head.flags & !row.flags));
                    }
                    if fds != row.fds.len() && !(row.optional_fds && fds == 0) {
                        return Err(Malformed::WrongFds { got: fds, expected: row.fds.len() });
                    }
                    let r = &mut Reader::new(bytes);
                    let _head: &[u8] = r.bytes(HEAD_LEN)?;
                    let message = match head.opcode {
                        $($opcode => Self::$name($name::decode_body(r, usize::from(head.fixed))?),)*
                        other => return Err(Malformed::UnknownOpcode(other)),
                    };
                    match r.rest().len() {
                        0 => Ok((head, message)),
                        extra => Err(Malformed::Trailing { extra }),
                    }
                }
            }
        }
    };
}

/// Head flag of Submit: answer with Accepted also when all is well.
pub const SUBMIT_REPLY: u16 = 1;

message_table! {
    /// Messages between a client and the broker. Clients never send fds.
    mod client, enum ClientMessage;
    uses {
        use crate::error::ErrorCode;
        use crate::jobs::{ClientJob, ClientOperand, ClientParam, Wait};
        use crate::rights::{Access, HugePages, Rights};
        use crate::snapshot::Topic;
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
    /// Makes an object; answered by ObjectCreated.
    10 CreateObject since 1 from Client fds [] flags 0 {
        /// Bytes; a multiple of the page size.
        len: u64,
        /// Which pages.
        huge: HugePages,
        /// Zero.
        reserved: Zero<7>,
    } [
        /// A name for people.
        name: u8, max limits::NAME_LEN;
    ]
    /// Says that every page of an object is there; answered by Committed.
    11 Commit since 1 from Client fds [] flags 0 {
        /// The object.
        object: Handle,
    } []
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
    /// Asks for the list of devices; answered by Devices.
    20 ListDevices since 1 from Client fds [] flags 0 {} []
    /// Asks how a device describes itself; answered by Described.
    21 Describe since 1 from Client fds [] flags 0 {
        /// The device.
        device: DeviceId,
    } []
    /// Opens a queue; answered by QueueOpened when the device's instance is up.
    22 OpenQueue since 1 from Client fds [] flags 0 {
        /// The device.
        device: DeviceId,
        /// Most jobs in flight; 0 is the default.
        depth: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Closes a queue; its jobs finish; answered by Done.
    23 CloseQueue since 1 from Client fds [] flags 0 {
        /// The queue.
        queue: QueueHandle,
    } []
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
    /// Answers CreateObject. The fd is a read-write export.
    110 ObjectCreated since 1 from Broker fds ["export"] flags 0 {
        /// The client's handle.
        object: Handle,
        /// Bytes.
        len: u64,
        /// What the handle allows.
        rights: Rights,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Answers Commit: the object is ready.
    111 Committed since 1 from Broker fds [] flags 0 {
        /// Bytes really pinned; may be less than the length where RLIMIT_MEMLOCK forbids.
        pinned: u64,
    } []
    /// Answers Export.
    113 Exported since 1 from Broker fds ["export"] flags 0 {
        /// Bytes.
        len: u64,
    } []
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
    /// Answers Submit when it asked for an answer.
    130 Accepted since 1 from Broker fds [] flags 0 {} []
    /// Answers Cancel.
    131 Cancelling since 1 from Broker fds [] flags 0 {
        /// 0: not yet started, will end Cancelled; 1: running, ends when the driver says so; 2: has ended.
        state: u32,
        /// Zero.
        reserved: Zero<4>,
    } []
    /// Answers Explain.
    140 Explained since 1 from Broker fds [] flags 0 {
        /// The cause.
        cause: CauseId,
        /// When it happened.
        at: Time,
        /// The job's point, 0 if none.
        point: Point,
        /// The process at fault, 0 if unknown.
        pid: u32,
        /// What went wrong there.
        code: ErrorCode,
    } [
        /// The device, if one.
        device: u8, max limits::NAME_LEN;
        /// What happened, in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// Answers Inspect.
    141 Page since 1 from Broker fds [] flags 0 {
        /// Cursor of the next page; 0 is the end.
        next: u64,
    } [
        /// A JSON array of entries of the topic.
        json: u8, max limits::MESSAGE_LEN;
    ]
}

message_table! {
    /// Messages between a driver instance and the broker. Drivers never send fds.
    mod driver, enum DriverMessage;
    uses {
        use crate::error::ErrorCode;
        use crate::jobs::{Completion, DriverJob, DriverOperand, DriverParam, DriverWait};
        use crate::rights::Access;
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

    /// First message: who the instance is.
    100 Start since 1 from Broker fds [] flags 0 {
        /// The instance; also its cause issuer.
        instance: InstanceId,
        /// The domain it serves.
        domain: DomainId,
    } []
    /// Map an object, whole. Sent again with Write it replaces a read-only mapping.
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
    } []
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
    /// End a job that has not started with Cancelled.
    141 CancelJob since 1 from Broker fds [] flags 0 {
        /// The queue's timeline.
        timeline: TimelineKey,
        /// The job's point.
        point: Point,
        /// The cause it ends with.
        cause: CauseId,
    } []
}

message_table! {
    /// Messages between the keeper and the broker.
    mod keeper, enum KeeperMessage;
    uses {}

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
    /// End in an orderly way.
    30 Stop since 1 from Keeper fds [] flags 0 {} []

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
}
