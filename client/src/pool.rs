//! Pools: buffers that are made once and reused without a system call.
//!
//! A pool belongs to one client and hands out whole committed buffers. What comes back is handed out again as it is, old
//! bytes included: they never were anybody else's. Jobs in flight on a buffer that came back are no trouble: the next
//! guard waits for them and the broker orders the next job after them.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::buffer::Buffer;
use crate::client::Client;
use crate::error::Result;
use crate::options::BufferOptions;

/// Buffers of one length, made when none is free. Clones share them.
#[derive(Debug, Clone)]
pub struct BufferPool {
    client: Client,
    len: u64,
    options: BufferOptions,
    free: Arc<Mutex<Vec<Buffer>>>,
}

impl BufferPool {
    pub(crate) fn new(client: Client, len: u64, options: BufferOptions) -> Self {
        Self { client, len, options, free: Arc::default() }
    }

    /// A free buffer, or a new one. It comes back to the pool when it is dropped.
    ///
    /// # Errors
    /// As [`Client::create_with`], if a new one has to be made.
    pub fn take(&self) -> Result<PooledBuffer> {
        let free = lock(&self.free).pop();
        let buffer = match free {
            Some(buffer) => buffer,
            None => self.client.create_with(self.len, &self.options)?,
        };
        Ok(PooledBuffer { buffer: Some(buffer), free: Arc::clone(&self.free) })
    }

    /// Makes buffers until `count` are free, up to 64 with one request.
    ///
    /// # Errors
    /// As [`Client::create_set_with`].
    pub fn reserve(&self, count: usize) -> Result<()> {
        let missing = count.saturating_sub(self.free());
        if missing > 0 {
            let made = self.client.create_set_with(missing, self.len, &self.options)?;
            lock(&self.free).extend(made);
        }
        Ok(())
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> usize {
        lock(&self.free).len()
    }

    /// Gives the free ones up.
    pub fn trim(&self) {
        drop(std::mem::take(&mut *lock(&self.free)));
    }
}

/// A buffer of a pool.
#[derive(Debug)]
pub struct PooledBuffer {
    buffer: Option<Buffer>,
    free: Arc<Mutex<Vec<Buffer>>>,
}

impl Deref for PooledBuffer {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        self.buffer.as_ref().expect("the buffer is here until drop")
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            lock(&self.free).push(buffer);
        }
    }
}

fn lock(free: &Mutex<Vec<Buffer>>) -> MutexGuard<'_, Vec<Buffer>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}
