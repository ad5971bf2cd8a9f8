//! Pipelined requests: batches and promises, which are answered only if they are refused, unless an answer is asked for.

use vgem_proto::ids::Time;
use vgem_proto::message::client::{Promise, Submit};
use vgem_proto::message::{PROMISE_REPLY, SUBMIT_REPLY};

use super::Link;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::exchange::RequestId;

/// Pipelined messages after which the socket is looked at in passing.
const PIPELINED: u32 = 64;

/// Whether a batch is answered when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Awaited,
    OnlyRefusal,
}

impl Link {
    /// Sends a batch, in the storage of `scratch`. With an answer to collect, or pipelined; waits for room until
    /// `patience` ends.
    pub(crate) fn submit(
        &self,
        batch: &Submit,
        scratch: &mut Vec<u8>,
        answer: Answer,
        deadline: Deadline,
        patience: Deadline,
    ) -> Result<RequestId> {
        let (id, read) = self.number(answer);
        let flags = if answer == Answer::Awaited { SUBMIT_REPLY } else { 0 };
        *scratch = batch.encode_into(std::mem::take(scratch), id.0, deadline.time(), flags);
        self.send_pipelined(id, scratch, read, patience)
    }

    /// Sends a promise, likewise.
    pub(crate) fn promise(&self, promise: &Promise, answer: Answer, patience: Deadline) -> Result<RequestId> {
        let (id, read) = self.number(answer);
        let flags = if answer == Answer::Awaited { PROMISE_REPLY } else { 0 };
        self.send_pipelined(id, &promise.encode(id.0, Time(0), flags), read, patience)
    }

    /// The number of a request that may be pipelined; and whether it is time to read.
    fn number(&self, answer: Answer) -> (RequestId, bool) {
        let mut state = self.state();
        let id = match answer {
            Answer::Awaited => state.exchange.begin(),
            Answer::OnlyRefusal => state.exchange.number(),
        };
        state.pipelined = (state.pipelined + 1) % PIPELINED;
        (id, state.pipelined == 0)
    }

    fn send_pipelined(
        &self,
        id: RequestId,
        bytes: &[u8],
        read: bool,
        patience: Deadline,
    ) -> Result<RequestId> {
        self.send(bytes, patience).inspect_err(|_| {
            self.state().exchange.forsake(id);
        })?;
        if read {
            self.drain();
        }
        Ok(id)
    }
}
