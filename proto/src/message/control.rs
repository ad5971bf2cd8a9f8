//! Messages between control, the front on a message bus, and the broker.

message_table! {
    enum ControlMessage;
    uses {
        use crate::error::ErrorCode;
    }

    /// Asks for a session of somebody who called over the bus, or with the flag ADMINISTERS for one that administers for
    /// somebody who may, or with the flag CONTROLS_OWN for one of control's own; answered by SessionOpened or
    /// SessionRefused.
    1 OpenSession since 1 from Control fds [] flags 3 {
        /// The caller's user, as the bus says.
        uid: u32,
        /// The caller's process, as the bus says; for people, never proof.
        pid: u32,
    } []

    /// Answers OpenSession. The fd is a connected socket on which the broker awaits Hello.
    101 SessionOpened since 1 from Broker fds ["session"] flags 0 {} []
    /// Answers OpenSession: there is no session, and why.
    102 SessionRefused since 1 from Broker fds [] flags 0 {
        /// What was asked.
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
}
