//! The files each queue has open.
//!
//! A file number is given out once in an instance's life. It is looked up together with the queue, so that a
//! number of another queue is answered like a number that does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::TimelineKey;

use crate::file::{AppendLock, Direct, Inode, OpenFile};
use crate::paths::Opened;

/// Files one queue may have open. Each takes two fds of the instance.
pub(crate) const FILES_PER_QUEUE: usize = 256;

/// All open files of an instance.
#[derive(Debug, Default)]
pub(crate) struct Files {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    queues: HashMap<TimelineKey, HashMap<u64, Arc<OpenFile>>>,
    appends: HashMap<Inode, Weak<Mutex<()>>>,
}

impl Files {
    /// Adds an opened file and returns its number.
    pub(crate) fn add(&self, queue: TimelineKey, opened: Opened, direct: Direct) -> Result<u64, JobError> {
        let appends = self.with(|table| table.append_lock(opened.inode));
        let file = Arc::new(OpenFile::new(opened, direct, appends)?);
        self.with(|table| {
            let files = table.queues.entry(queue).or_default();
            if files.len() >= FILES_PER_QUEUE {
                let text =
                    format!("{FILES_PER_QUEUE} files are open on this queue, which is the limit; close one");
                return Err(JobError::new(ErrorCode::Exhausted, text));
            }
            table.last += 1;
            files.insert(table.last, file);
            Ok(table.last)
        })
    }

    /// The file a queue opened under this number.
    pub(crate) fn find(&self, queue: TimelineKey, number: u64) -> Result<Arc<OpenFile>, JobError> {
        self.with(|table| table.queues.get(&queue)?.get(&number).cloned()).ok_or_else(|| not_open(number))
    }

    /// Closes one file.
    pub(crate) fn close(&self, queue: TimelineKey, number: u64) -> Result<(), JobError> {
        let closed = self.with(|table| table.queues.get_mut(&queue)?.remove(&number));
        // The last use closes the fds, outside the lock.
        closed.map(drop).ok_or_else(|| not_open(number))
    }

    /// Closes all files of a queue.
    pub(crate) fn close_queue(&self, queue: TimelineKey) {
        drop(self.with(|table| table.queues.remove(&queue)));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Table) -> R) -> R {
        // Every change to the table is one map operation: a panic leaves it whole.
        work(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn append_lock(&mut self, inode: Inode) -> AppendLock {
        if let Some(lock) = self.appends.get(&inode).and_then(Weak::upgrade) {
            return lock;
        }
        self.appends.retain(|_, lock| lock.strong_count() > 0);
        let lock = AppendLock::default();
        self.appends.insert(inode, Arc::downgrade(&lock));
        lock
    }
}

fn not_open(number: u64) -> JobError {
    JobError::new(
        ErrorCode::NotFound,
        format!("file {number} is not open on this queue; each queue opens its own"),
    )
}
