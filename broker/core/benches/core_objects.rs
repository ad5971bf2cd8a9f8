//! What objects cost in the broker's core: time from create to freed while few or many others live, and memory.
//!
//! Prints nanoseconds per life (create, made, commit, kept, close, dropped, probed, freed; the kernel's and the
//! keeper's answers are given at once and cost nothing) with 100 and with 100 000 other objects alive, in turns,
//! and the process's memory per live object. `cargo bench -p vgem-core --bench core_objects`.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use vgem_core::config::Quotas;
use vgem_core::io::{Effect, Effects, Input, LinkId, PeerFacts, Way};
use vgem_core::{Broker, Config};
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, DomainId, Handle, Time};
use vgem_proto::message::Head;
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit, CreateObject, Hello};
use vgem_proto::rights::HugePages;

const LINK: LinkId = LinkId(1);
const LIVES: usize = 2_000;
const ROUNDS: usize = 15;
const FEW: usize = 100;
const MANY: usize = 100_000;

struct Stage {
    broker: Broker,
    now: Time,
    object: Handle,
    effects: Effects,
    inputs: Vec<Input>,
}

impl Stage {
    /// A broker with that many objects that are ready.
    fn with(objects: usize) -> Self {
        let quotas = Quotas { objects: 1 << 20, handles: 1 << 20, ..Quotas::default() };
        let mut config = Config::default();
        config.policy.defaults.quotas = quotas;
        let broker = Broker::new(config);
        let (effects, inputs) = (Effects::new(), Vec::new());
        let mut stage = Self { broker, now: Time(1), object: Handle(0), effects, inputs };
        let peer = PeerFacts { way: Way::Socket, uid: 1, pid: 1, domain: DomainId(1), token: [0; 2] };
        stage.apply(Input::Connected { link: LINK, peer });
        stage.ask(Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: Vec::new() });
        for _ in 0..objects {
            stage.make();
        }
        stage
    }

    fn ask(&mut self, message: impl Into<ClientMessage>) {
        self.apply(Input::Request { link: LINK, head: Head::default(), message: message.into() });
    }

    /// Lets an input happen and answers for the kernel and the keeper.
    fn apply(&mut self, input: Input) {
        self.now = self.now.after(1000);
        self.inputs.push(input);
        while let Some(input) = self.inputs.pop() {
            self.broker.apply_into(self.now, input, &mut self.effects);
            for effect in self.effects.drain(..) {
                let answer = match effect {
                    Effect::MakeObject { object, .. } => Input::ObjectMade { object, outcome: Ok(1) },
                    Effect::CheckPopulated { object } => Input::PopulatedChecked { object, populated: true },
                    Effect::Keep { object, len } => Input::Kept { object, pinned: len },
                    Effect::Drop { object } => Input::Dropped { object },
                    Effect::Probe { object } => Input::Probed { object, free: true },
                    Effect::Free { object } => Input::Freed { object, gone: true },
                    Effect::MakePair { pair } => Input::PairMade { pair, outcome: Ok(()) },
                    Effect::Reply { link, message: ClientMessage::ObjectCreated(created), .. } => {
                        self.object = created.objects.first().copied().unwrap_or_default();
                        Input::Received { link }
                    }
                    Effect::Reply { message: ClientMessage::Refused(refused), .. } => {
                        panic!("refused: {refused:?}")
                    }
                    other => {
                        black_box(&other);
                        continue;
                    }
                };
                self.inputs.push(answer);
            }
        }
    }

    fn make(&mut self) {
        let (writer, huge, name) = (DeviceId(0), HugePages::Never, b"a name of some length".to_vec());
        self.ask(CreateObject { len: 4096, writer, count: 1, huge, reserved: Zero, name });
        self.ask(Commit { objects: vec![self.object] });
    }

    /// Time per life of an object among those that are there.
    fn live(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..LIVES {
            self.make();
            self.ask(CloseObject { object: self.object });
        }
        begun.elapsed() / u32::try_from(LIVES).expect("small")
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this bench needs /proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn main() {
    let mut few = Stage::with(FEW);
    let before = resident();
    let mut many = Stage::with(MANY);
    let each = (resident() - before) / MANY as u64;
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        with_few.push(few.live());
        with_many.push(many.live());
    }
    assert_eq!(few.broker.ledger().objects + many.broker.ledger().objects, FEW + MANY);
    let (few, many) = (median(&mut with_few), median(&mut with_many));
    let hundredths = many * 100 / few.max(1);
    eprintln!("core_objects: median of {ROUNDS} rounds of {LIVES} lives, ns per life from create to freed");
    eprintln!("{FEW:>7} others alive: {few:>6} ns");
    eprintln!("{MANY:>7} others alive: {many:>6} ns, {}.{:02} times", hundredths / 100, hundredths % 100);
    eprintln!("memory per ready object: {each} bytes");
}

fn median(times: &mut [Duration]) -> u128 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0, Duration::as_nanos)
}
