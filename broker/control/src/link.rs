//! The link to the broker: sessions for callers.
//!
//! One task has the socket; who wants a session asks it. The broker answers at once or is about to end, so what is asked
//! waits in a queue of fixed length, and then in its caller.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot};
use vgem::{ErrorCode, Refusal};
use vgem_os::seqpacket::{Packet, RecvError, Socket};
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::control::{ControlMessage, OpenSession};
use vgem_proto::message::{ADMINISTERS, CONTROLS_OWN, Sender};

use crate::Ended;
use crate::error::{Error, Result};

/// Requests on their way.
const QUEUE: usize = 64;

/// Who a caller is, as the bus says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// Its user.
    pub(crate) uid: u32,
    /// Its process, for people.
    pub(crate) pid: u32,
}

/// Where sessions are asked for. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Broker(mpsc::Sender<Asking>);

/// The task's end.
#[derive(Debug)]
pub(crate) struct Asked(mpsc::Receiver<Asking>);

/// One request on its way to the task.
#[derive(Debug)]
struct Asking {
    whose: Identity,
    flags: u16,
    answer: oneshot::Sender<Result<Socket>>,
}

/// Both ends.
pub(crate) fn broker() -> (Broker, Asked) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Broker(sender), Asked(receiver))
}

impl Broker {
    /// A session of somebody, before its greeting.
    ///
    /// # Errors
    /// As the broker refuses: Denied, Exhausted; BrokerLost.
    pub(crate) async fn session(&self, whose: Identity) -> Result<Socket> {
        self.ask(whose, 0).await
    }

    /// A session that administers for somebody who may, before its greeting.
    ///
    /// # Errors
    /// As [`Self::session`].
    pub(crate) async fn session_to_administer(&self, whose: Identity) -> Result<Socket> {
        self.ask(whose, ADMINISTERS).await
    }

    /// A session of this process's own, before its greeting: it looks, and uses nothing.
    ///
    /// # Errors
    /// As [`Self::session`].
    pub(crate) async fn own_session(&self, own: Identity) -> Result<Socket> {
        self.ask(own, CONTROLS_OWN).await
    }

    async fn ask(&self, whose: Identity, flags: u16) -> Result<Socket> {
        let (answer, answered) = oneshot::channel();
        let gone = |()| Error::new(ErrorCode::BrokerLost, "the broker is gone");
        self.0.send(Asking { whose, flags, answer }).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

/// Passes requests on until the broker goes.
///
/// # Errors
/// Always: [`Ended`] is how it ends.
pub(crate) async fn run(link: Socket, mut asked: Asked) -> Ended {
    let ready = match readiness(&link) {
        Ok(ready) => ready,
        Err(ended) => return ended,
    };
    let mut waiting = HashMap::new();
    let mut request = 0_u64;
    loop {
        tokio::select! {
            Some(Asking { whose, flags, answer }) = asked.0.recv(), if waiting.len() < QUEUE => {
                request += 1;
                let open = OpenSession { uid: whose.uid, pid: whose.pid }.encode(request, Time(0), flags);
                // Room for so many small packets there always is.
                if let Err(e) = link.send(&open, &[]) {
                    return Ended::Broker(e.to_string());
                }
                waiting.insert(request, answer);
            }
            readable = ready.readable() => {
                if let Err(e) = readable {
                    return Ended::Runtime(e);
                }
                let mut taken = Ok(());
                // Everything is taken, so the readiness is used up.
                let used = ready.try_io(Interest::READABLE, || {
                    taken = answers(&link, &mut waiting);
                    Err::<(), _>(ErrorKind::WouldBlock.into())
                });
                debug_assert!(used.is_err(), "the readiness was used up");
                if let Err(ended) = taken {
                    return ended;
                }
            }
        }
    }
}

/// When the link can be read: a duplicate that the runtime watches and nobody reads. It has no SEQPACKET type; of its types
/// the datagram one asks nothing of the socket but its readiness.
fn readiness(link: &Socket) -> std::result::Result<UnixDatagram, Ended> {
    link.set_nonblocking(true)?;
    let duplicate = link.as_fd().try_clone_to_owned().map_err(Ended::Runtime)?;
    UnixDatagram::from_std(duplicate.into()).map_err(Ended::Runtime)
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Socket>>>;

/// Takes all answers that there are.
fn answers(link: &Socket, waiting: &mut Waiting) -> std::result::Result<(), Ended> {
    let mut buffer = vec![0; limits::MESSAGE_LEN];
    loop {
        let mut fds: Vec<OwnedFd> = Vec::new();
        let bytes = match link.recv(&mut buffer, &mut fds) {
            Ok(Packet::Data { len }) => buffer.get(..len).unwrap_or_default(),
            Ok(Packet::Closed) => return Err(Ended::Broker("it closed the link".into())),
            Ok(Packet::TooLong { len }) => return Err(Ended::Broker(format!("it sent {len} bytes"))),
            Err(RecvError::Os(e)) if e.would_block() => return Ok(()),
            Err(e) => return Err(Ended::Broker(e.to_string())),
        };
        let (head, message) = ControlMessage::decode(bytes, Sender::Broker, fds.len())
            .map_err(|e| Ended::Broker(format!("it sent nonsense: {e}")))?;
        let Some(answer) = waiting.remove(&head.request) else { continue };
        let outcome = match (message, fds.pop()) {
            (ControlMessage::SessionOpened(_), Some(fd)) => Ok(Socket::from(fd)),
            (ControlMessage::SessionRefused(no), _) => {
                let text = String::from_utf8_lossy(&no.text).into_owned();
                Err(Error::of(&Refusal::new(no.code, text).with(no.value, no.limit)))
            }
            (other, _) => return Err(Ended::Broker(format!("it sent {}", other.row().name))),
        };
        // Who asked may have gone meanwhile; then the session is closed here.
        drop(answer.send(outcome));
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::codec::Zero;
    use vgem_proto::message::control::{SessionOpened, SessionRefused};

    use super::*;

    const WHO: Identity = Identity { uid: 7, pid: 8 };

    /// The broker's side: hears one request, and answers with `answer`.
    fn answering(broker: Socket, answer: impl FnOnce(&Socket, u64) + Send + 'static) {
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            let Ok(Packet::Data { len }) = broker.recv_plain(&mut buffer) else { panic!("no request") };
            let decoded = ControlMessage::decode(&buffer[..len], Sender::Control, 0);
            let (head, message) = decoded.expect("control speaks well");
            assert_eq!(message, OpenSession { uid: 7, pid: 8 }.into());
            answer(&broker, head.request);
        });
    }

    fn until_closed(link: &Socket) {
        assert_eq!(link.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
    }

    fn asks(answer: impl FnOnce(&Socket, u64) + Send + 'static) -> Result<Socket> {
        let (ours, theirs) = Socket::pair().expect("a pair");
        answering(theirs, answer);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (broker, asked) = broker();
            tokio::select! {
                outcome = broker.session(WHO) => outcome,
                ended = run(ours, asked) => Err(Error::new(ErrorCode::BrokerLost, ended.to_string())),
            }
        })
    }

    #[test]
    fn a_session_is_the_fd_that_comes_with_its_answer() {
        let session = asks(|link, request| {
            let (theirs, ours) = Socket::pair().expect("a pair");
            ours.send(b"hello", &[]).expect("room");
            link.send(&SessionOpened {}.encode(request, Time(0), 0), &[theirs.as_fd()]).expect("room");
            until_closed(link);
        });
        let mut buffer = [0; 8];
        assert_eq!(session.expect("opened").recv_plain(&mut buffer), Ok(Packet::Data { len: 5 }));
    }

    #[test]
    fn a_refusal_has_its_code_value_and_limit() {
        let refused = asks(|link, request| {
            let text = b"served alone".to_vec();
            let code = ErrorCode::Denied;
            let refused = SessionRefused { value: 1234, limit: 1000, code, reserved: Zero, text };
            link.send(&refused.encode(request, Time(0), 0), &[]).expect("room");
            until_closed(link);
        });
        let error = refused.expect_err("refused");
        assert_eq!(error.code(), ErrorCode::Denied);
        assert!(error.text().contains("1234") && error.text().contains("1000"), "{error}");
    }

    #[test]
    fn who_waits_when_the_broker_goes_is_told() {
        let lost = asks(|_, _| {}).expect_err("nobody answers");
        assert_eq!(lost.code(), ErrorCode::BrokerLost);
    }
}
