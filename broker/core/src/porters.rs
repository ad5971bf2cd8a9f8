//! Porters.

use vgem_proto::error::Refusal;
use vgem_proto::ids::{ObjectKey, PorterId, Time};
use vgem_proto::message::client::ClientMessage;
use vgem_proto::rights::Access;

use crate::broker::Broker;
use crate::io::{Arrival, Effect, LinkId};

impl Broker {
    pub(crate) fn undelivered(&mut self, _now: Time, _link: LinkId, _message: &ClientMessage) {}
    pub(crate) fn unreceived(&mut self, _link: LinkId) {}
    pub(crate) fn porter_started(&mut self, _porter: PorterId, _pid: u32) {}
    pub(crate) fn porter_failed(&mut self, _porter: PorterId, _why: &str) {}
    pub(crate) fn porter_gone(&mut self, _porter: PorterId) {}
    pub(crate) fn brought(&mut self, _: Time, _: PorterId, _: u64, arrival: Arrival, _: Access) {
        if let Arrival::Memory { arrival, .. } = arrival {
            self.out.push(Effect::DropArrival { arrival });
        }
    }
    pub(crate) fn unfit(&mut self, _now: Time, _porter: PorterId, _request: u64, _refusal: Refusal) {}
    pub(crate) fn sealed(&mut self, _object: ObjectKey, _outcome: Result<(), i32>) {}
    pub(crate) fn tampered(&mut self, _object: ObjectKey, _what: String) {}
}
