//! Plans over real processes: whichever way an operation goes, it does the same and fails the same.

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem::{Access, Buffer, Client, Deadline, Embedded, ErrorCode, LocalError};
use vgem_plan::{
    Aim, Bound, Cost, Draft, Error, Obstacle, Plan, PlanOptions, Require, Thresholds, Way, WayCost,
};

const LEN: u64 = 64 << 10;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

const fn only(way: Way) -> Require {
    match way {
        Way::Tracked => Require::TRACKED,
        Way::UserQueue => Require::USER_QUEUE,
        Way::Cpu => Require::CPU,
    }
}

/// A broker, a plan that has measured nothing, and bound memory: an input, an output, a few bytes beside.
struct Rig {
    input: Buffer,
    output: Buffer,
    beside: Buffer,
    plan: Plan,
    client: Client,
    _broker: Embedded,
}

impl Rig {
    fn new() -> Self {
        let broker = Embedded::start().expect("a private broker");
        let client = broker.client().expect("a client");
        let plan =
            Plan::with_thresholds(&client, Thresholds::default(), &PlanOptions::new()).expect("a plan");
        let [input, output, beside] = [LEN, 2 * LEN, 4096].map(|len| client.create(len).expect("memory"));
        for buffer in [&input, &output, &beside] {
            let _kept: Bound = plan.bind(buffer, Access::Write).expect("bound");
        }
        let rig = Self { input, output, beside, plan, client, _broker: broker };
        rig.fill(&text());
        rig
    }

    /// Puts bytes at the start of the input, and others everywhere else.
    fn fill(&self, bytes: &[u8]) {
        self.input.write(.., soon()).expect("ours").fill(0xe1);
        self.input.copy_in(0, bytes, soon()).expect("ours");
        self.output.write(.., soon()).expect("ours").fill(0xe2);
        let mut beside = self.beside.write(.., soon()).expect("ours");
        beside.fill(9);
    }

    fn call<'r>(&'r self, device: &str, op: &str) -> Draft<'r, 'r, Plan> {
        self.plan.call(device, op)
    }

    fn bytes(&self, buffer: &Buffer) -> Vec<u8> {
        buffer.read(.., soon()).expect("it is good").to_vec()
    }
}

fn text() -> Vec<u8> {
    let line = |n: usize| format!("line {n} says {}; ", n * n % 977);
    (0..5000).flat_map(|n| line(n).into_bytes()).take(50_000).collect()
}

/// An index that names four ranges of 1000 bytes.
fn index() -> Vec<u8> {
    [30_000u64, 7, 12_000, 40_000].iter().flat_map(|at| [*at, 1000]).flat_map(u64::to_le_bytes).collect()
}

/// What is seen of a call that went well: bytes produced, the number, the digest, all of the output.
type Seen = (u64, u64, [u8; 32], Vec<u8>);

/// Does the same all ways and says what is seen of each; every way must be the one that was required.
fn seen<'r>(rig: &'r Rig, draft: impl Fn() -> Draft<'r, 'r, Plan>) -> [Seen; 3] {
    Way::ALL.map(|way| {
        rig.output.write(.., soon()).expect("ours").fill(0xe2);
        let done = draft().require(only(way)).run(soon()).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!((done.way(), done.explain().way), (way, Some(way)));
        (done.produced(), done.value(), done.digest(), rig.bytes(&rig.output))
    })
}

fn same<'r>(rig: &'r Rig, what: &str, draft: impl Fn() -> Draft<'r, 'r, Plan>) -> Seen {
    let [tracked, user, cpu] = seen(rig, draft);
    assert!(
        tracked == user && tracked == cpu,
        "{what} differs: {:?} {:?} {:?}",
        head(&tracked),
        head(&user),
        head(&cpu)
    );
    tracked
}

fn head(seen: &Seen) -> (u64, u64, [u8; 32]) {
    (seen.0, seen.1, seen.2)
}

#[test]
fn every_operation_of_copy_does_the_same_whichever_way_it_goes() {
    let rig = Rig::new();
    let (input, output) = (&rig.input, &rig.output);
    let copied = same(&rig, "copy", || rig.call("copy", "copy").input(input).output(output));
    assert_eq!(copied.3[..50_000], text());
    let filled =
        same(&rig, "fill", || rig.call("copy", "fill").output(output.slice(5..9000)).param("byte", 7));
    assert_eq!((filled.3[4], filled.3[5], filled.3[8999], filled.3[9000]), (0xe2, 7, 7, 0xe2));
    let compared = same(&rig, "compare", || {
        rig.call("copy", "compare").operand("left", input.slice(..100)).operand("right", input.slice(1..90))
    });
    assert_eq!(compared.1, 0);
    let sum = same(&rig, "crc32c", || rig.call("copy", "crc32c").input(input));
    assert_ne!(sum.1, 0);
    same(&rig, "copy2d", || {
        let call =
            rig.call("copy", "copy2d").input(input).inout(output).param("width", 33).param("height", 70);
        call.param("src_stride", 100).param("dst_stride", 50)
    });
    rig.beside.copy_in(0, &index(), soon()).expect("ours");
    let indexed = |op: &str| rig.call("copy", op).input(input).operand("index", rig.beside.slice(..64));
    same(&rig, "gather", || indexed("gather").output(output));
    same(&rig, "scatter", || indexed("scatter").inout(output));
}

#[test]
fn every_format_is_packed_the_same_and_unpacked_by_every_way() {
    let rig = Rig::new();
    let (input, output) = (&rig.input, &rig.output);
    for format in ["gzip", "zlib", "deflate", "zstd", "lz4"] {
        rig.fill(&text());
        let packed = same(&rig, format, || {
            rig.call("zip", "compress").input(input.slice(..50_000)).output(output).param("format", format)
        });
        let len = packed.0;
        assert!(len > 0 && packed.1 == 50_000, "{format}: {len}");
        rig.fill(&packed.3[..usize::try_from(len).expect("it is short")]);
        let plain = same(&rig, format, || {
            rig.call("zip", "decompress").input(input.slice(..len)).output(output).param("format", format)
        });
        assert!(plain.0 == 50_000 && plain.3[..50_000] == text(), "{format}");
    }
}

#[test]
fn what_one_way_seals_every_way_opens() {
    let rig = Rig::new();
    let (input, output) = (&rig.input, &rig.output);
    let (key, aad) = (rig.beside.slice(..32), rig.beside.slice(100..171));
    for algorithm in ["aes-256-gcm", "chacha20-poly1305"] {
        rig.fill(&text());
        let sealed = seen(&rig, || {
            let call = rig.call("sec", "seal").input(input.slice(..50_000)).output(output);
            call.operand("key", key).operand("aad", aad).param("algorithm", algorithm)
        });
        for (frame_len, plain_len, _, frame) in sealed {
            assert_eq!((frame_len, plain_len), (50_048, 50_000));
            rig.fill(&frame[..50_048]);
            let opened = same(&rig, algorithm, || {
                let call = rig.call("sec", "open").input(input.slice(..50_048)).output(output);
                call.operand("key", key).operand("aad", aad).param("algorithm", algorithm)
            });
            assert!(opened.0 == 50_000 && opened.3[..50_000] == text(), "{algorithm}");
        }
    }
}

#[test]
fn every_digest_is_the_same_in_the_result_and_in_the_output() {
    let rig = Rig::new();
    let (input, key) = (&rig.input, rig.beside.slice(..32));
    for (op, keyed) in [("sha256", false), ("blake3", false), ("blake3", true), ("hmac-sha256", true)] {
        let found = same(&rig, op, || {
            let call = rig.call("sec", op).input(input).output(rig.output.slice(64..96));
            if keyed { call.operand("key", key) } else { call }
        });
        assert!(found.2 != [0; 32] && found.3[64..96] == found.2, "{op}");
    }
}

#[test]
fn operands_that_overlap_are_moved_the_same_whichever_way() {
    let rig = Rig::new();
    let moved = Way::ALL.map(|way| {
        rig.fill(&text());
        let call =
            rig.call("copy", "copy").input(rig.input.slice(..9000)).output(rig.input.slice(5000..14_000));
        call.require(only(way)).run(soon()).expect("moved");
        rig.bytes(&rig.input)
    });
    assert!(moved[0] == moved[1] && moved[0] == moved[2] && moved[0][5000..14_000] == text()[..9000]);
}

/// The code and the words with which each way fails.
fn failures<'r>(rig: &'r Rig, draft: impl Fn() -> Draft<'r, 'r, Plan>) -> Vec<(ErrorCode, String)> {
    let fail = |way: Way| match draft().require(only(way)).run(soon()) {
        Err(Error::Failed(failure)) => {
            assert_eq!(failure.way, way);
            (failure.code, failure.text)
        }
        other => panic!("{way}: {other:?}"),
    };
    let mut all: Vec<_> = Way::ALL.map(fail).into();
    // A failed job has poisoned what it was to write.
    rig.output.write(.., soon()).expect("ours").fill(0);
    all.dedup();
    all
}

#[test]
fn an_operation_fails_with_the_same_code_and_words_whichever_way_it_goes() {
    let rig = Rig::new();
    let (input, output) = (&rig.input, &rig.output);
    let code = |what: &str, all: Vec<(ErrorCode, String)>| {
        let [(code, text)] = &all[..] else { panic!("{what}: {all:?}") };
        assert!(!text.is_empty(), "{what}");
        *code
    };
    let small = failures(&rig, || rig.call("copy", "copy").input(input).output(output.slice(..10)));
    assert_eq!(code("copy", small), ErrorCode::OutputTooSmall);
    let other = failures(&rig, || {
        let call =
            rig.call("copy", "compare").operand("left", input.slice(..9)).operand("right", input.slice(9..));
        call.param("require_equal", "yes")
    });
    assert_eq!(code("compare", other), ErrorCode::CorruptInput);
    let rows = failures(&rig, || {
        let call =
            rig.call("copy", "copy2d").input(input).inout(output).param("width", 100).param("height", 1000);
        call.param("src_stride", 100).param("dst_stride", 200)
    });
    assert_eq!(code("copy2d", rows), ErrorCode::OutOfRange);
    let level = failures(&rig, || {
        rig.call("zip", "compress").input(input).output(output).param("format", "lz4").param("level", 9)
    });
    assert_eq!(code("compress", level), ErrorCode::BadParameter);
    for format in ["gzip", "zlib", "deflate", "zstd", "lz4"] {
        let bad = failures(&rig, || {
            rig.call("zip", "decompress").input(input).output(output).param("format", format)
        });
        assert_eq!(code(format, bad), ErrorCode::CorruptInput);
    }
    let frame = failures(&rig, || {
        rig.call("sec", "open").input(input).output(output).operand("key", rig.beside.slice(..32))
    });
    assert_eq!(code("open", frame), ErrorCode::CorruptInput);
}

#[test]
fn a_mistake_is_told_before_a_way_is_chosen() {
    let rig = Rig::new();
    let mistake = |draft: Draft<'_, '_, Plan>| match draft.run(soon()) {
        Err(Error::Client(vgem::Error::Local(mistake))) => mistake,
        other => panic!("{other:?}"),
    };
    let (input, output) = (&rig.input, &rig.output);
    assert!(
        matches!(mistake(rig.call("zap", "copy")), LocalError::NoSuchDevice { known, .. } if known.len() == 3)
    );
    assert!(matches!(mistake(rig.call("copy", "move")), LocalError::NoSuchOperation { .. }));
    assert!(matches!(mistake(rig.call("copy", "copy").input(input)), LocalError::Missing { .. }));
    let beyond = rig.call("copy", "copy").input(input.slice(..LEN + 1)).output(output);
    assert!(matches!(mistake(beyond), LocalError::OutOfRange { .. }));
    let key = rig.call("sec", "seal").input(input).output(output).operand("key", rig.beside.slice(..31));
    assert!(matches!(mistake(key), LocalError::OperandLen { len: 31, least: 32, most: 32, .. }));
    let level = rig.call("zip", "compress").input(input).output(output).param("level", 999);
    assert!(matches!(mistake(level), LocalError::BadValue { .. }));
}

/// Has a job fail that was to write the first bytes of the input.
fn poison(rig: &Rig) {
    let copy = rig.client.device("copy").and_then(|copy| copy.queue(0)).expect("a queue");
    let mut batch = rig.client.batch();
    batch.job(&copy, "copy").input(&rig.output).output(rig.input.slice(..100));
    let failed = batch.submit().expect("sent").wait(soon());
    assert!(failed.is_err(), "it does not fit");
}

#[test]
fn what_is_poisoned_fails_every_way_with_the_cause_until_any_way_has_written_it_anew() {
    for way in Way::ALL {
        let rig = Rig::new();
        poison(&rig);
        let codes = Way::ALL.map(|way| {
            let read = rig.call("sec", "sha256").input(&rig.input).require(only(way));
            let error = read.run(soon()).expect_err("it is poisoned");
            (error.code(), error.to_string().contains("do not fit into the output of 100 bytes"))
        });
        assert!(codes.iter().all(|found| *found == codes[0] && found.1), "{codes:?}");
        rig.call("copy", "fill").output(&rig.input).require(only(way)).run(soon()).expect("written anew");
        for way in Way::ALL {
            let read = rig.call("sec", "sha256").input(&rig.input).require(only(way)).run(soon());
            read.unwrap_or_else(|error| panic!("{way}: {error}"));
        }
    }
}

#[test]
fn every_way_waits_for_the_jobs_that_come_before_it() {
    let rig = Rig::new();
    let zip = rig.client.device("zip").and_then(|zip| zip.queue(0)).expect("a queue");
    for way in Way::ALL {
        rig.fill(&text());
        let mut batch = rig.client.batch();
        batch.job(&zip, "compress").input(&rig.input).output(&rig.output).param("level", 19);
        batch.job(&zip, "decompress").input(&rig.output).output(&rig.input).run_anyway();
        let jobs = batch.submit().expect("sent");
        let done =
            rig.call("copy", "fill").output(&rig.output).param("byte", 3).require(only(way)).run(soon());
        done.unwrap_or_else(|error| panic!("{way}: {error}"));
        assert!(jobs.fences()[0].has_ended(), "{way} went before a job over the same bytes");
        assert!(rig.bytes(&rig.output).iter().all(|byte| *byte == 3), "{way}");
        drop(jobs.wait(soon()));
    }
}

#[test]
fn a_shared_buffer_goes_by_user_queue_only_if_that_is_said() {
    let rig = Rig::new();
    drop(rig.output.export(Access::Read).expect("an fd"));
    let call = || rig.call("copy", "copy").input(&rig.input).output(&rig.output).require(Require::USER_QUEUE);
    match call().run(soon()) {
        Err(Error::NoWay(choice)) => {
            let shared = Obstacle::Shared { operand: "output".into() };
            assert_eq!(choice.obstacle(Way::UserQueue), Some(&shared));
            assert!(choice.to_string().contains("no way is left"), "{choice}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(call().although_shared().run(soon()).expect("copied").way(), Way::UserQueue);
    let cpu = rig.call("copy", "copy").input(&rig.input).output(&rig.output).require(Require::CPU);
    assert_eq!(cpu.run(soon()).expect("copied").produced(), LEN);
}

#[test]
fn what_is_not_bound_and_what_has_no_engine_is_named() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let options = PlanOptions::new().devices(["copy", "blk"]);
    let plan = Plan::with_thresholds(&client, Thresholds::default(), &options).expect("a plan");
    let buffer = client.create(LEN).expect("memory");
    let fill = || plan.call("copy", "fill").output(&buffer);
    let unbound = fill().require(Require::USER_QUEUE).explain().expect("explained");
    assert_eq!(unbound.obstacle(Way::UserQueue), Some(&Obstacle::NotBound { operand: "output".into() }));
    let bound = plan.bind(&buffer, Access::Read).expect("bound");
    let reading = fill().require(Require::USER_QUEUE).explain().expect("explained");
    assert_eq!(reading.way, None, "it is bound for reading");
    plan.unbind(bound).expect("unbound");
    let sync = plan.call("blk", "sync").param("file", 1u64).require(Require::CPU).explain();
    assert_eq!(sync.expect("explained").obstacle(Way::Cpu), Some(&Obstacle::NoEngine));
    let none = fill().require(Require::ANY).explain().expect("explained");
    assert_eq!(none.way, Some(Way::Tracked), "with nothing measured the first that is possible");
}

/// Costs with which small fills go to the CPU, and large ones to the device.
fn known() -> Thresholds {
    let mut known = Thresholds::default();
    let line = |base, byte| WayCost { wall: Cost::new(base, byte), own: Cost::new(base, byte) };
    known.set("copy", "fill", Way::Tracked, line(50_000.0, 0.0));
    known.set("copy", "fill", Way::UserQueue, line(10_000.0, 1.0));
    known.set("copy", "fill", Way::Cpu, line(0.0, 10.0));
    known
}

#[test]
fn the_size_decides_by_what_is_known_and_the_result_says_so() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let plan = Plan::with_thresholds(&client, known(), &PlanOptions::new()).expect("a plan");
    let buffer = client.create(2 * LEN).expect("memory");
    let _bound = plan.bind(&buffer, Access::Write).expect("bound");
    for (len, way) in [(1000, Way::Cpu), (2000, Way::UserQueue), (100_000, Way::Tracked)] {
        let done = plan.call("copy", "fill").output(buffer.slice(..len)).run(soon()).expect("filled");
        assert_eq!((done.way(), done.produced()), (way, len));
        let thresholds: Vec<_> = done.explain().crossovers.iter().map(|one| (one.from, one.way)).collect();
        assert_eq!(thresholds, [(0, Way::Cpu), (1112, Way::UserQueue), (40_000, Way::Tracked)]);
    }
}

#[test]
fn every_operation_of_the_devices_is_measured_every_way() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let options =
        PlanOptions::new().sva().budget(Duration::from_secs(60)).sizes([256, 4096]).aim(Aim::OwnCpu);
    let plan = Plan::measure(&client, &options).expect("a plan");
    let found = plan.thresholds();
    assert!(found.ask_ns > 0.0, "{found:?}");
    for name in ["copy", "zip", "sec"] {
        let device = client.device(name).expect("a device");
        for op in &device.description().operations {
            let costs =
                found.of(name, &op.name).unwrap_or_else(|| panic!("{name}.{} was not measured", op.name));
            for way in Way::ALL {
                let cost =
                    costs.of(way).unwrap_or_else(|| panic!("{name}.{} {way} was not measured", op.name));
                assert!(cost.wall.base_ns >= 0.0 && cost.wall.at(4096) > 0.0, "{name}.{} {way}", op.name);
            }
        }
    }
}

#[test]
fn a_failure_on_the_cpu_leaves_what_was_poisoned_as_it_was() {
    let rig = Rig::new();
    poison(&rig);
    let copy = rig.call("copy", "copy").input(&rig.output).output(rig.input.slice(..100));
    let failed = copy.require(Require::CPU).run(soon()).expect_err("it does not fit");
    assert_eq!(failed.code(), Some(ErrorCode::OutputTooSmall));
    assert!(rig.input.read(..100, soon()).is_err(), "nobody has written it anew");
}

#[test]
fn poison_is_found_too_where_what_is_read_and_what_is_written_overlap() {
    let rig = Rig::new();
    poison(&rig);
    for (way, require) in Way::ALL.map(|way| (way, only(way))) {
        let call = rig.call("copy", "copy").input(rig.input.slice(..100)).output(rig.input.slice(50..150));
        let error = call.require(require).run(soon()).expect_err("it reads what is poisoned");
        assert!(error.to_string().contains("do not fit into the output of 100 bytes"), "{way}: {error}");
    }
}

#[test]
fn plain_memory_has_the_results_and_the_failures_of_objects_by_cpu_and_by_user_queue() {
    let rig = Rig::new();
    let object = rig.call("zip", "compress").input(rig.input.slice(..50_000)).output(&rig.output);
    let len = object.require(Require::TRACKED).run(soon()).expect("packed").produced();
    let by_device = rig.bytes(&rig.output);
    let digest =
        rig.call("sec", "sha256").input(rig.input.slice(..50_000)).run(soon()).expect("hashed").digest();
    let options = PlanOptions::new().sva();
    let plan = Plan::with_thresholds(&rig.client, Thresholds::default(), &options).expect("a plan");
    for way in [Way::UserQueue, Way::Cpu] {
        let (text, mut packed, mut plain) = (text(), vec![0; 65_536], vec![0; 50_000]);
        let pack = plan.plain("zip", "compress").input(&text).output(&mut packed).require(only(way));
        let done = pack.run(soon()).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!((done.way(), done.produced(), packed.len()), (way, len, 65_536));
        let len = usize::try_from(len).expect("it is short");
        assert_eq!(packed[..len], by_device[..len], "{way}");
        let unpack = plan.plain("zip", "decompress").input(&packed[..len]).output(&mut plain);
        unpack.require(only(way)).run(soon()).expect("unpacked");
        assert_eq!(plain, text, "{way}");
        let hash = plan.plain("sec", "sha256").input(&plain).require(only(way)).run(soon()).expect("hashed");
        assert_eq!(hash.digest(), digest, "{way}");
        let mut short = vec![0; 9];
        let small = plan.plain("copy", "copy").input(&text).output(&mut short).require(only(way)).run(soon());
        let small = small.expect_err("it does not fit");
        assert!(small.to_string().contains("the output of 9 bytes") && short.len() == 9, "{way}: {small}");
        assert_eq!(small.code(), Some(ErrorCode::OutputTooSmall), "{way}");
    }
}

#[test]
fn plain_memory_goes_by_queue_only_if_there_is_one_that_reaches_it_and_what_is_written_can_be_lent() {
    let rig = Rig::new();
    let (bytes, mut into) = ([1; 64], vec![0; 64]);
    let device = rig.plan.plain("copy", "copy").input(&bytes).output(&mut into).require(Require::DEVICE);
    match device.run(soon()) {
        Err(Error::NoWay(choice)) => {
            assert_eq!(choice.obstacle(Way::Tracked), Some(&Obstacle::Plain));
            assert_eq!(choice.obstacle(Way::UserQueue), Some(&Obstacle::NoSva));
        }
        other => panic!("{other:?}"),
    }
    let options = PlanOptions::new().devices(["copy"]).sva();
    let plan = Plan::with_thresholds(&rig.client, Thresholds::default(), &options).expect("a plan");
    let slice =
        plan.plain("copy", "copy").input(&bytes).output(&mut into[..32]).explain().expect("explained");
    let wanted = Obstacle::NotLendable { operand: "output".into() };
    assert_eq!((slice.way, slice.obstacle(Way::UserQueue)), (Some(Way::Cpu), Some(&wanted)));
    let read_only = plan.plain("copy", "copy").input(&bytes).operand("output", &bytes[..]).run(soon());
    let mistake = LocalError::OnlyReadable { op: "copy".into(), operand: "output".into() };
    assert!(matches!(read_only, Err(Error::Client(vgem::Error::Local(told))) if told == mistake));
}
