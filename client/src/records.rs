//! Records of batches that were sent and may still be refused.
//!
//! Submission is pipelined: a batch is answered only if it is refused, and others may have been sent after it by then.
//! Most refused batches use their points all the same, and their fences fail by themselves. One that found no room does
//! not; then the record of it says which points are void ([`crate::queue`]).
//!
//! A record is dropped when its jobs have ended. Records keep no queue open.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use vgem_os::fence::PointState;
use vgem_proto::error::Refusal;
use vgem_proto::ids::Point;

use crate::exchange::RequestId;
use crate::jobpoint::JobPoint;
use crate::queue::QueueShared;

/// Records after which those of ended jobs are dropped.
const CROWD: usize = 128;

/// Batches in the order they were sent.
#[derive(Debug, Default)]
pub(crate) struct Records {
    sent: VecDeque<Record>,
}

#[derive(Debug)]
struct Record {
    id: RequestId,
    stretches: Vec<Stretch>,
}

/// The points of one queue that a batch used.
#[derive(Debug)]
struct Stretch {
    queue: Weak<QueueShared>,
    round: u32,
    first: Point,
    last: Point,
}

impl Records {
    /// A batch was sent.
    pub(crate) fn add(&mut self, id: RequestId, jobs: &[JobPoint]) {
        if self.sent.len() >= CROWD {
            self.prune();
        }
        let mut stretches: Vec<Stretch> = Vec::with_capacity(1);
        for job in jobs {
            let queue = job.queue();
            let known = stretches.iter_mut().find(|one| std::ptr::eq(one.queue.as_ptr(), Arc::as_ptr(queue)));
            match known {
                Some(stretch) => stretch.last = job.point(),
                None => stretches.push(Stretch {
                    queue: Arc::downgrade(queue),
                    round: job.round(),
                    first: job.point(),
                    last: job.point(),
                }),
            }
        }
        self.sent.push_back(Record { id, stretches });
    }

    /// These batches were refused and used no point.
    pub(crate) fn void(&mut self, refused: &[(RequestId, Refusal)]) {
        for (id, why) in refused {
            let Ok(place) = self.sent.binary_search_by_key(id, |record| record.id) else { continue };
            let Some(record) = self.sent.remove(place) else { continue };
            for stretch in record.stretches {
                if let Some(queue) = stretch.queue.upgrade() {
                    queue.void(stretch.round, stretch.first, why);
                }
            }
        }
    }

    fn prune(&mut self) {
        self.sent.retain(|record| !record.stretches.iter().all(Stretch::has_ended));
    }
}

impl Stretch {
    fn has_ended(&self) -> bool {
        self.queue.upgrade().is_none_or(|queue| {
            self.round != queue.round()
                || queue.observer.state(queue.target(self.last)) != PointState::Pending
        })
    }
}
