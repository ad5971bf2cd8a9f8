//! Sessions: what control holds for callers that use the data verbs.
//!
//! ```text
//!   first data verb ─► session opened ─► buffers, queues, jobs ─► caller leaves the bus ─► all of it is let go
//! ```
//!
//! A session is a connection of the caller's own user; what is in it the broker charges to that user. One caller cannot
//! name what is another's: the numbers are the session's.
//!
//! How a job ends is told by a pipe whose read end the caller has: it becomes readable, and gives eight bytes as an
//! eventfd would, then its end. It is no eventfd because a caller could fill one, and whoever writes it then would wait: the
//! write end of a pipe is nobody's but ours, and closing it never waits.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use vgem::aio::Client;
use vgem::{Access, Buffer, BufferOptions, Cell, Cells, ClientOptions, Direction, ErrorCode};
use vgem::{Fence, Operation, ParamKind, Queue};
use zbus::names::OwnedUniqueName;
use zbus::{OwnedVariant, Variant};

use crate::error::{Error, Result};
use crate::link::{Broker, Identity};
use crate::values::{bytes, number};

/// Sessions held at once.
const SESSIONS: usize = 256;
/// Jobs of one session that are remembered: running, or ended and not forgotten.
const JOBS: usize = 256;
/// Depth of the queues that control opens for a session.
const DEPTH: u32 = 64;
/// How long a job is waited for. Its own time is shorter, and the broker's word.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// All sessions, by the caller's name on the bus.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: Mutex<HashMap<OwnedUniqueName, Arc<Session>>>,
}

/// What one caller has.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    uid: u32,
    state: Mutex<State>,
    /// Held while queues are opened, so that one device gets one.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    buffers: HashMap<u64, Arc<Buffer>>,
    queues: HashMap<String, Queue>,
    jobs: BTreeMap<u64, Arc<Job>>,
    last_job: u64,
}

/// A job that was accepted.
#[derive(Debug)]
pub(crate) struct Job {
    fence: Fence,
    cells: Option<Cells>,
    value_means: String,
    outcome: Mutex<Option<std::result::Result<(), Error>>>,
    cause: Mutex<Option<String>>,
}

/// How a job stands.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It has not ended.
    Running,
    /// It ended well; with what is in its result cell, if it has one, and what the value there means.
    Ended(Option<(Cell, String)>),
    /// It failed, with its cause if there is one.
    Failed(Error, Option<String>),
}

/// One operand: its name, the buffer, the first byte, and how many; 0 is all from there on.
pub(crate) type Operand = (String, u64, u64, u64);

impl Sessions {
    /// The session of a caller, opened if it is the first time; and whether it is.
    ///
    /// # Errors
    /// As the broker refuses; Exhausted.
    pub(crate) async fn of(
        &self,
        broker: &Broker,
        name: &OwnedUniqueName,
        whose: Identity,
    ) -> Result<(Arc<Session>, bool)> {
        if let Some(session) = self.all().get(name) {
            return Ok((Arc::clone(session), false));
        }
        self.room()?;
        let socket = broker.session(whose).await?;
        let options = ClientOptions::new().name(format!("bus {name}"));
        let client = Client::over(socket, &options).await?;
        let (uid, state, opening) = (whose.uid, Mutex::default(), Default::default());
        let session = Arc::new(Session { client, uid, state, opening });
        self.room()?;
        // Two first calls at once: one session stays, and the other ends unused.
        Ok((Arc::clone(self.all().entry(name.clone()).or_insert(session)), true))
    }

    /// A caller has left the bus.
    pub(crate) fn gone(&self, name: &OwnedUniqueName) {
        let session = self.all().remove(name);
        drop(session);
    }

    /// The bus is gone, and every caller with it.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.all());
        drop(all);
    }

    fn room(&self) -> Result<()> {
        let used = self.all().len();
        if used < SESSIONS {
            return Ok(());
        }
        let text = format!("{used} callers have sessions, the limit is {SESSIONS}");
        Err(Error::new(ErrorCode::Exhausted, text))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<OwnedUniqueName, Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The caller's connection.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The caller's user.
    pub(crate) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes a buffer; its number, and an fd to map it with.
    pub(crate) async fn create(&self, len: u64, options: &BufferOptions) -> Result<(u64, OwnedFd)> {
        let buffer = self.client.create_with(len, options).await?;
        let fd = self.client.export(&buffer, Access::Write).await?;
        let handle = u64::from(buffer.handle().0);
        self.state().buffers.insert(handle, Arc::new(buffer));
        Ok((handle, fd))
    }

    /// An fd of a buffer.
    pub(crate) async fn export(&self, handle: u64, access: Access) -> Result<OwnedFd> {
        let buffer = self.buffer(handle)?;
        Ok(self.client.export(&buffer, access).await?)
    }

    /// Lets a buffer go. Jobs under way keep it.
    pub(crate) fn close(&self, handle: u64) -> Result<()> {
        let closed = self.state().buffers.remove(&handle);
        closed.map(drop).ok_or_else(|| no_handle(handle))
    }

    /// Submits one job; its number, and the end of a pipe that is readable once it has ended.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        device: &str,
        op: &str,
        params: &HashMap<String, OwnedVariant>,
        operands: &[Operand],
        timeout: Option<Duration>,
    ) -> Result<(u64, OwnedFd)> {
        self.room()?;
        let device = self.client.device(device).await?;
        let op = device.op(op)?;
        let operation = op.operation();
        let buffers = operands.iter().map(|operand| self.buffer(operand.1)).collect::<Result<Vec<_>>>()?;
        let queue = self.queue(&device).await?;
        let has_cell = operation.operands.iter().any(|one| one.direction == Direction::Cell);
        let cells = if has_cell { Some(self.client.cells(1).await?) } else { None };
        let values = params
            .iter()
            .map(|(name, value)| Ok((name.as_str(), Value::of(operation, name, value)?)))
            .collect::<Result<Vec<_>>>()?;
        let mut batch = self.client.batch();
        let mut job = batch.job(&queue, &op);
        for ((name, _, offset, len), buffer) in operands.iter().zip(&buffers) {
            let end = if *len == 0 { buffer.len() } else { offset.saturating_add(*len) };
            job = job.operand(name.as_str(), buffer.slice(*offset..end));
        }
        for (name, value) in &values {
            job = job.param(*name, value.param());
        }
        if let Some(cells) = &cells {
            job = job.result(cells.at(0));
        }
        if let Some(timeout) = timeout {
            job.timeout(timeout);
        }
        let submitted = self.client.submit_acknowledged(&mut batch).await?;
        let fence = submitted.last().clone();
        let value_means = operation.value.clone();
        let (outcome, cause) = (Mutex::new(None), Mutex::new(None));
        self.watch(Arc::new(Job { fence, cells, value_means, outcome, cause }))
    }

    /// How a job stands.
    pub(crate) fn outcome(&self, job: u64) -> Result<Outcome> {
        let job = self.state().jobs.get(&job).cloned().ok_or_else(|| no_job(job))?;
        let ended = job.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(match ended {
            None => Outcome::Running,
            Some(Ok(())) => {
                Outcome::Ended(job.cells.as_ref().map(|cells| (cells.read(0), job.value_means.clone())))
            }
            Some(Err(error)) => {
                Outcome::Failed(error, job.cause.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
        })
    }

    /// The device and the point of a job.
    pub(crate) fn point(&self, job: u64) -> Result<(String, u64)> {
        let job = self.state().jobs.get(&job).cloned().ok_or_else(|| no_job(job))?;
        Ok((job.fence.device().to_owned(), job.fence.point().0))
    }

    /// Forgets a job. It goes on if it runs.
    pub(crate) fn forget(&self, job: u64) -> Result<()> {
        self.state().jobs.remove(&job).map(drop).ok_or_else(|| no_job(job))
    }

    /// Remembers a job and tells its end by a pipe.
    fn watch(self: &Arc<Self>, job: Arc<Job>) -> Result<(u64, OwnedFd)> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (end, told) =
            pipe_with(flags).map_err(|e| Error::new(ErrorCode::System, format!("pipe: {e}")))?;
        let mut state = self.state();
        state.last_job += 1;
        let id = state.last_job;
        state.jobs.insert(id, Arc::clone(&job));
        drop(state);
        tokio::spawn(async move {
            let ended = job.fence.wait_async(PATIENCE).await;
            if let Err(vgem::FenceError::Failed(failure)) = &ended {
                *job.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.cause.to_string());
            }
            *job.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.map_err(Error::from));
            // It is empty and has one reader: eight bytes find room, or the reader is gone.
            if let Err(e) = rustix::io::write(&told, &1_u64.to_ne_bytes()) {
                tracing::debug!("nobody waits for a job that has ended: {e}");
            }
        });
        Ok((id, end))
    }

    async fn queue(&self, device: &vgem::Device) -> Result<Queue> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(queue) = self.state().queues.get(device.name()) {
            return Ok(queue.clone());
        }
        let queue = self.client.queue(device, DEPTH).await?;
        self.state().queues.insert(device.name().to_owned(), queue.clone());
        Ok(queue)
    }

    fn buffer(&self, handle: u64) -> Result<Arc<Buffer>> {
        self.state().buffers.get(&handle).cloned().ok_or_else(|| no_handle(handle))
    }

    /// Makes room for one job more, by forgetting the oldest that has ended.
    fn room(&self) -> Result<()> {
        let mut state = self.state();
        if state.jobs.len() < JOBS {
            return Ok(());
        }
        let ended = state.jobs.iter().find(|(_, job)| job.fence.has_ended()).map(|(id, _)| *id);
        let Some(oldest) = ended else {
            let text = format!("{} jobs run, the limit of a caller on the bus is {JOBS}", state.jobs.len());
            return Err(Error::new(ErrorCode::Exhausted, text));
        };
        state.jobs.remove(&oldest);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of a parameter, as the library takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Negative(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    fn of(operation: &Operation, name: &str, value: &Variant<'_>) -> Result<Self> {
        let kind = operation.params.iter().find(|param| param.name == name).map(|param| &param.kind);
        match (number(value), value, kind) {
            (Some(Ok(number)), ..) => Ok(Self::Number(number)),
            (Some(Err(negative)), ..) => Ok(Self::Negative(negative)),
            (None, Variant::Str(text), Some(ParamKind::Bytes { .. })) => {
                Ok(Self::Bytes(text.as_bytes().to_vec()))
            }
            (None, Variant::Str(text), _) => Ok(Self::Text(text.to_string())),
            (None, other, _) => bytes(other).map(Self::Bytes).ok_or_else(|| {
                let signature = other.value_signature();
                let text = format!("parameter {name:?} is of type {signature}; an integer, s or ay will do");
                Error::new(ErrorCode::BadParameter, text)
            }),
        }
    }

    fn param(&self) -> vgem::ParamValue<'_> {
        match self {
            Self::Number(number) => vgem::ParamValue::Number(*number),
            Self::Negative(number) => vgem::ParamValue::Negative(*number),
            Self::Text(text) => vgem::ParamValue::Text(text),
            Self::Bytes(bytes) => vgem::ParamValue::Bytes(bytes),
        }
    }
}

fn no_handle(handle: u64) -> Error {
    Error::new(ErrorCode::NoSuchHandle, format!("no object {handle} of this caller"))
}

fn no_job(job: u64) -> Error {
    Error::new(ErrorCode::NoSuchHandle, format!("no job {job} of this caller, or it was forgotten"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        Operation::new(1, "work", "")
            .number("level", "", 1, 9, None)
            .choice("format", "", &["gzip"], None)
            .bytes("path", "", 64, true)
    }

    #[test]
    fn values_of_the_bus_are_what_the_library_takes() {
        let value = |name: &str, value: Variant<'_>| Value::of(&operation(), name, &value).ok();
        assert_eq!(value("level", Variant::from(3_i32)), Some(Value::Number(3)));
        assert_eq!(value("level", Variant::from(-3_i64)), Some(Value::Negative(-3)));
        assert_eq!(value("format", Variant::from("gzip")), Some(Value::Text("gzip".into())));
        assert_eq!(value("path", Variant::from("/a")), Some(Value::Bytes(b"/a".to_vec())));
        assert_eq!(value("path", Variant::from(vec![1_u8, 2])), Some(Value::Bytes(vec![1, 2])));
    }

    #[test]
    fn a_value_of_another_type_is_refused_by_its_name() {
        let refused = Value::of(&operation(), "level", &Variant::from(1.5_f64)).expect_err("no number");
        assert!(refused.text().contains("\"level\" is of type d"), "{refused}");
    }
}
