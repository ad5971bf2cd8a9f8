//! An actor's process, as the arena has it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vgem::TimelineToken;
use vgem_os::seqpacket::{Packet, Socket};

use super::words::{Answer, Order, Record, Role};
use crate::programs;

/// Longer than anything an actor does: whoever does not answer by then hangs.
const HANG: Duration = Duration::from_secs(8);

/// An actor; ended on drop.
#[derive(Debug)]
pub struct Actor {
    /// What it does.
    pub role: Role,
    child: Child,
    link: Socket,
}

impl Actor {
    /// Starts one of this user.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(role: Role, uid: u32) -> Self {
        let (link, theirs) = Socket::pair().expect("a pair of sockets");
        link.set_recv_timeout(Some(HANG)).expect("a socket of ours");
        let mut command = Command::new(programs::own("vgem-test-actor"));
        command.args([format!("{role:?}"), uid.to_string()]).stdin(Stdio::from(OwnedFd::from(theirs)));
        Self { role, child: command.spawn().expect("it starts"), link }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it connect to a broker and make what it needs there.
    ///
    /// # Panics
    /// If it cannot.
    pub fn connect(&self, socket: &Path) {
        self.must(&Order::Connect(socket.to_owned()), &[]);
    }

    /// Gives it one end of a socket whose other end its partner has.
    ///
    /// # Panics
    /// As [`Actor::must`].
    pub fn meet(&self, partner: &Socket) {
        self.must(&Order::Partner, &[partner]);
    }

    /// Tells it something that must succeed.
    ///
    /// # Panics
    /// If it does not, or hangs.
    pub fn must(&self, order: &Order, fds: &[&Socket]) {
        self.tell(order, fds);
        self.is_ready(order);
    }

    /// It has done what it was told.
    ///
    /// # Panics
    /// If it has not, or hangs.
    pub fn is_ready(&self, order: &Order) {
        let answer = self.answer();
        assert_eq!(answer, Some(Answer::Ready), "{:?} (pid {}) was told {order:?}", self.role, self.pid());
    }

    /// Tells it something; [`Actor::answer`] has what came of it. One that is dead is told in vain.
    ///
    /// # Panics
    /// If an order is no JSON.
    pub fn tell(&self, order: &Order, fds: &[&Socket]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        drop(self.link.send(&serde_json::to_vec(order).expect("orders are JSON"), &fds));
    }

    /// What it answers; none if it is dead.
    ///
    /// # Panics
    /// If it hangs.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        let mut buf = vec![0; 65_536];
        match self.link.recv_plain(&mut buf) {
            Ok(Packet::Data { len }) => Some(serde_json::from_slice(&buf[..len]).expect("an answer")),
            Ok(Packet::Closed) => None,
            Err(e) if e.errno() == vgem_os::Errno::CONNRESET => None,
            other => panic!("{:?} (pid {}) hangs: {other:?}", self.role, self.pid()),
        }
    }

    /// Has the stage make a timeline; what it is passed on with.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn offer(&self) -> [u8; TimelineToken::LEN] {
        self.tell(&Order::Offer, &[]);
        match self.answer() {
            Some(Answer::Token(token)) => token,
            other => panic!("{:?}: {other:?} instead of a timeline", self.role),
        }
    }

    /// What came of the waits of a round; none if it is dead. `importing` is called when it is about to import.
    ///
    /// # Panics
    /// If it hangs, or answers something else.
    #[must_use]
    pub fn records(&self, mut importing: impl FnMut()) -> Option<Vec<Record>> {
        loop {
            match self.answer() {
                Some(Answer::Round(records)) => return Some(records),
                Some(Answer::Importing) => importing(),
                None => return None,
                other => panic!("{:?}: {other:?} instead of a round", self.role),
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Ended already, or reaped: both are what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
