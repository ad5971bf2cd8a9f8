//! Messages of a porter, or a doorman: from its client on its channel, and to the broker on its link. Each carries the number
//! of the client's request, but for what a doorman tells later, which answers nothing.

message_table! {
    enum PorterMessage;
    uses {
        use crate::error::ErrorCode;
        use crate::rights::Access;
    }

    /// The fd of an Import, or of an AttachMemory. It answers no request and is answered by nobody: the broker answers the other.
    1 Hand since 1 from Client fds ["fd"] flags 0 {} []
    /// The listening socket of a CreateDomain with DOMAIN_AT, and the fd that ends the domain when it hangs up; to a doorman,
    /// once. The broker answers the other.
    2 HandDoor since 1 from Client fds ["listener" "close"] flags 0 {} []

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
    /// What a doorman was handed is a listening socket, and an fd that can hang up and has not.
    14 DoorFits since 1 from Porter fds [] flags 0 {} [
        /// Where the socket is, as it was bound; empty if that is no path.
        path: u8, max limits::TEXT_LEN;
    ]
    /// Somebody has connected to the listening socket of a doorman. Answers nothing.
    15 Visitor since 1 from Porter fds ["connection"] flags 0 {} []
    /// The listening socket takes no more connections: its owner has shut it. The doorman stays for the other fd. Answers nothing.
    16 DoorShut since 1 from Porter fds [] flags 0 {} [
        /// How, in words.
        text: u8, max limits::TEXT_LEN;
    ]
    /// The fd that ends the domain has hung up; the doorman ends. Answers nothing.
    17 DoorEnds since 1 from Porter fds [] flags 0 {} []
}
