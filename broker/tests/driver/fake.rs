//! A driver for tests, straight over the wire: operation 0 is done at once, 1 and 3 never, 2 breaks the protocol.
//!
//! It is built without the driver SDK, so that what the daemon does is tested against the protocol alone.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use vgem_os::fence::{SignallerFace, SignallerFds, Slot};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_os::{clock, process};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::ids::{CauseId, PageId, Point, Time, TimelineKey};
use vgem_proto::jobs::Completion;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{Complete, DriverMessage, Mapped, Ready, TimelineClosed, Unmapped};

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--describe") {
        return std::io::stdout().write_all(&description()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let Ok(fd) = process::inherited(3) else { return ExitCode::FAILURE };
    Driver { link: Socket::from(fd), pages: BTreeMap::new(), shown: BTreeMap::new() }.run()
}

fn description() -> Vec<u8> {
    Description::new("fake", "does nothing, in four ways", 1)
        .operation(Operation::new(0, "done", "is done at once"))
        .operation(Operation::new(1, "hang", "is never done"))
        .operation(Operation::new(2, "break", "breaks the protocol"))
        .operation(Operation::new(3, "hold", "is never done with its output").operand(
            "output",
            Direction::Out,
            Touch::InPlace,
        ))
        .encode()
}

struct Driver {
    link: Socket,
    pages: BTreeMap<PageId, SignallerFace>,
    shown: BTreeMap<TimelineKey, Vec<(PageId, Slot)>>,
}

impl Driver {
    fn run(mut self) -> ExitCode {
        self.say(&Ready { version: 1, reserved: Zero, description: description() }.into());
        let mut buffer = vec![0; limits::MESSAGE_LEN];
        loop {
            let mut fds = Vec::new();
            let Ok(Packet::Data { len }) = self.link.recv(&mut buffer, &mut fds) else {
                return ExitCode::SUCCESS;
            };
            let decoded = DriverMessage::decode(&buffer[..len], Sender::Broker, fds.len());
            let (_, message) = decoded.expect("the broker sends right messages");
            self.hear(message, fds);
        }
    }

    fn hear(&mut self, message: DriverMessage, fds: Vec<OwnedFd>) {
        match message {
            DriverMessage::SignalPage(new) => {
                let [page, interest] = <[OwnedFd; 2]>::try_from(fds).expect("two fds");
                let face = SignallerFace::map(SignallerFds { page, interest }).expect("pages");
                self.pages.insert(new.page, face);
            }
            DriverMessage::Publish(publish) => {
                let slot = Slot::new(publish.slot).expect("a slot");
                self.pages[&publish.page].publish(slot, publish.timeline.generation, 0, clock::now(), &[]);
                self.shown.entry(publish.timeline).or_default().push((publish.page, slot));
            }
            DriverMessage::Run(run) => {
                let mut completions = Vec::new();
                for job in run.jobs {
                    match job.op {
                        0 => completions.push(self.done(job.queue, job.point)),
                        1 | 3 => {}
                        _ => self.link.send(&[7; 40], &[]).expect("the broker reads"),
                    }
                }
                for some in completions.chunks(limits::COMPLETIONS) {
                    self.say(&Complete { completions: some.to_vec() }.into());
                }
            }
            DriverMessage::Map(map) => self.say(&Mapped { object: map.object }.into()),
            DriverMessage::Unmap(unmap) => self.say(&Unmapped { object: unmap.object }.into()),
            DriverMessage::CloseTimeline(close) => {
                self.shown.remove(&close.timeline);
                self.say(&TimelineClosed { timeline: close.timeline }.into());
            }
            _ => {}
        }
    }

    fn done(&self, timeline: TimelineKey, point: Point) -> Completion {
        let now = clock::now();
        for (page, slot) in self.shown.get(&timeline).into_iter().flatten() {
            let woke = self.pages[page].signal(*slot, point.0, now, None);
            woke.expect("points grow");
        }
        let (started, ended) = (Time(now), Time(now));
        Completion {
            timeline,
            point,
            started,
            ended,
            bytes: 0,
            staged: 0,
            cause: CauseId::NONE,
            code: 0,
            reserved: Zero,
        }
    }

    fn say(&self, message: &DriverMessage) {
        // A broker that is gone is noticed at the next message that does not come.
        drop(self.link.send(&message.encode(0, Time(0), 0), &[]));
    }
}
