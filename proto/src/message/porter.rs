//! Messages of a porter: from its client on its channel, and to the broker on its link. Each carries the number
//! of the client's Import.

message_table! {
    enum PorterMessage;
    uses {
        use crate::error::ErrorCode;
        use crate::rights::Access;
    }

    /// The fd of an Import, or of an AttachMemory. It answers no request and is answered by nobody: the broker answers the other.
    1 Hand since 1 from Client fds ["fd"] flags 0 {} []

    /// What the client handed over is memory that may be an object: sealed, of a size that cannot change.
    11 Brought since 1 from Porter fds ["memory"] flags 0 {
        /// Bytes.
        len: u64,
        /// What the fd allows.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
    /// What the client handed over can be neither an object nor the memory of a process.
    12 Unfit since 1 from Porter fds [] flags 0 {
        /// What was found.
        value: u64,
        /// What is allowed.
        limit: u64,
        /// Why.
        code: ErrorCode,
        /// Zero.
        reserved: Zero<4>,
    } [
        /// In words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// What the client handed over is the memory of a process.
    13 BroughtProcess since 1 from Porter fds ["memory"] flags 0 {
        /// What the fd allows.
        access: Access,
        /// Zero.
        reserved: Zero<7>,
    } []
}
