//! Entries on the client's own memory, which is that of this process, or of a child of it.

use std::process::{Command, Stdio};

use vgem_os::client_memory;
use vgem_proto::message::driver::WindowsSet;
use vgem_proto::user_queue::{FaultReason, Window};

use super::*;

/// Memory of this process that only the kernel touches while entries run.
struct Own {
    bytes: Box<[AtomicU64; 1024]>,
}

impl Own {
    fn new() -> Self {
        Self { bytes: Box::new(std::array::from_fn(|n| AtomicU64::new(n as u64))) }
    }

    fn at(&self, word: usize) -> u64 {
        self.bytes[word].as_ptr().addr() as u64
    }

    fn word(&self, word: usize) -> u64 {
        self.bytes[word].load(Ordering::Acquire)
    }

    /// A window over words of it.
    fn window(&self, words: std::ops::Range<usize>, access: Access) -> Window {
        let range = VaRange::new(self.at(words.start), 8 * words.len() as u64).expect("addresses");
        Window::new(range, access)
    }
}

impl Rig {
    /// Gives a queue memory, and hears that it has it.
    fn give(&mut self, fd: OwnedFd, windows: Vec<Window>) {
        let attach = AttachMemory { timeline: QUEUE, windows };
        let given = self.rings.attach_memory(&self.instance, &attach, fd).expect("a thread");
        assert_eq!((given, self.hear()), (Windows::UnderWay, WindowsSet { timeline: QUEUE }.into()));
    }

    fn set(&mut self, windows: Vec<Window>) {
        let set = self.rings.set_windows(&SetWindows { timeline: QUEUE, windows });
        assert_eq!((set, self.hear()), (Windows::UnderWay, WindowsSet { timeline: QUEUE }.into()));
    }
}

fn own_fd(access: Access) -> OwnedFd {
    client_memory::own(access).expect("a dumpable process")
}

fn fault(completion: &Completion) -> (Option<ErrorCode>, u64, u64) {
    (code(completion), completion.address, completion.value)
}

fn faulted(address: u64, reason: FaultReason) -> (Option<ErrorCode>, u64, u64) {
    (Some(ErrorCode::AddressFault), address, reason.number())
}

#[test]
fn bytes_go_between_what_is_bound_and_the_clients_own_memory() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Write), vec![own.window(0..1024, Access::Write)]);
    let done = client.run(&[
        copy(own.at(7), BASE, 64),
        copy(BASE, own.at(100), 64),
        copy(own.at(1), own.at(200), 16),
    ]);
    assert!(done.iter().all(|done| done.failure.is_none()), "{done:?}");
    assert_eq!([100, 107, 108, 200, 201, 202].map(|word| own.word(word)), [7, 14, 108, 1, 2, 202]);
}

// M-169
#[test]
fn what_is_in_no_window_is_a_fault_at_its_first_address_and_changes_nothing() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Write), vec![own.window(0..8, Access::Read), own.window(8..16, Access::Write)]);
    let cases = [
        (copy(own.at(16), BASE, 8), faulted(own.at(16), FaultReason::Unbound)),
        (copy(own.at(15), BASE, 16), faulted(own.at(16), FaultReason::Unbound)),
        (copy(own.at(7), BASE, 16), faulted(own.at(8), FaultReason::Unbound)),
        (copy(BASE, own.at(0), 8), faulted(own.at(0), FaultReason::ReadOnly)),
    ];
    for (entry, expected) in cases {
        assert_eq!(fault(&client.run_one(entry)), expected);
    }
    rig.heard();
    assert_eq!(rig.ran(), 0);
    rig.set(Vec::new());
    assert_eq!(fault(&client.run_one(copy(own.at(8), BASE, 8))), faulted(own.at(8), FaultReason::Unbound));
    rig.heard();
    rig.set(vec![own.window(8..16, Access::Write)]);
    assert_eq!(code(&client.run_one(copy(own.at(8), own.at(9), 8))), None);
    assert_eq!([0, 9].map(|word| own.word(word)), [0, 8]);
}

// T38
#[test]
fn memory_that_is_open_for_reading_is_not_written_whatever_the_windows_say() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Read), vec![own.window(0..8, Access::Write)]);
    let done = client.run_one(copy(BASE, own.at(3), 8));
    assert_eq!((fault(&done), own.word(3)), (faulted(own.at(3), FaultReason::Unreachable), 3));
}

#[test]
fn what_is_bound_comes_before_what_is_there() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Write), vec![own.window(0..1024, Access::Write)]);
    assert_eq!(rig.bind(&Bind { address: own.at(10), len: 80, ..bind(QUEUE) }), Ok(()));
    rig.put(BASE, &99_u64.to_le_bytes());
    let done = client.run(&[copy(own.at(10), own.at(0), 8), copy(own.at(19), own.at(1), 16)]);
    assert!(done.iter().all(|done| done.failure.is_none()), "{done:?}");
    // Bound only in part counts as not bound.
    assert_eq!([0, 1, 2].map(|word| own.word(word)), [99, 19, 20]);
}

#[test]
fn blocks_cells_and_batches_may_be_there_too() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Write), vec![own.window(0..1024, Access::Write)]);
    let first = (0..1024).find(|word| own.at(*word).is_multiple_of(64)).expect("some line begins");
    let cell =
        VaOperand { address: own.at(first), len: 64, cell: 0, number: 2, cell_word: 0, reserved: Zero };
    let block = encode_block(&[cell], &[]).expect("not too many");
    let put = |word: usize, bytes: &[u8]| {
        for (at, eight) in (word..).zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..eight.len()].copy_from_slice(eight);
            own.bytes[at].store(u64::from_le_bytes(whole), Ordering::Release);
        }
    };
    put(first + 20, &block);
    let arguments =
        Arguments::Block(VaRange::new(own.at(first + 20), block.len() as u64).expect("addresses"));
    let operands = [Some((own.at(first + 40), 24)), Some((own.at(first + 50), 24))];
    assert_eq!(code(&client.run_one(entry(Work::Call(call(op::COPY, operands, arguments))))), None);
    assert_eq!(
        ([0, 1].map(|word| own.word(first + word)), own.word(first + 50)),
        ([24, 24], own.word(first + 40))
    );
    // The length of the next from the cell.
    let indirect = VaOperand { address: own.at(first + 60), len: 64, cell: own.at(first), number: 0, ..cell };
    let output = VaOperand { address: own.at(first + 70), len: 64, cell: 0, number: 1, ..cell };
    let block = encode_block(&[indirect, output], &[]).expect("not too many");
    put(first + 20, &block);
    let arguments =
        Arguments::Block(VaRange::new(own.at(first + 20), block.len() as u64).expect("addresses"));
    let batch = {
        let words = entry(Work::Call(call(op::COPY, [None; 2], arguments))).encode();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        put(first + 80, &bytes);
        entry(Work::Batch(Batch::new(own.at(first + 80), 1).expect("an array")))
    };
    let done = client.run_one(batch);
    assert_eq!((code(&done), done.produced), (None, 1));
    assert_eq!([72, 73].map(|word| own.word(first + word)), [own.word(first + 62), first as u64 + 73]);
}

#[test]
fn more_of_the_clients_own_memory_than_may_be_staged_is_refused_with_the_limit() {
    let (mut rig, mut client) = Rig::new();
    let all = Window { address: 1, len: (1 << 63) - 1, access: Access::Write, reserved: Zero };
    rig.give(own_fd(Access::Read), vec![all]);
    let half = limits::OWN_BYTES / 2;
    let done = client.run_one(copy(1 << 40, 1 << 41, half + 1));
    assert_eq!((code(&done), done.value), (Some(ErrorCode::OutOfRange), limits::OWN_BYTES + 2));
}

// M-170, T37
#[test]
fn a_process_that_executes_another_program_is_gone_and_so_is_one_that_has_ended() {
    let (mut rig, mut client) = Rig::new();
    // The shell opens its own memory as its output and waits; then it becomes another program.
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let mut child = Command::new("sh")
        .args(["-c", "exec 5<>/proc/self/mem; echo ready; read line; exec cat"])
        .stdin(Stdio::piped())
        .stdout(write)
        .spawn()
        .expect("a shell");
    let mut line = [0; 6];
    std::io::Read::read_exact(&mut read, &mut line).expect("it is ready");
    // What /proc/PID/fd/5 links to would be opened anew; the very open file comes by the pidfd.
    let theirs = open_file_of(child.id(), 5);
    let all = Window { address: 1, len: (1 << 63) - 1, access: Access::Write, reserved: Zero };
    rig.give(theirs, vec![all]);
    let heap = first_address(child.id());
    assert_eq!(code(&client.run_one(copy(heap, BASE, 64))), None, "while it is what it was");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"go\n").expect("it reads");
    wait_for(|| {
        std::fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name == "cat\n")
    });
    let after = first_address(child.id());
    for address in [heap, after] {
        assert_eq!(fault(&client.run_one(copy(address, BASE, 64))), faulted(address, FaultReason::Gone));
        assert_eq!(fault(&client.run_one(copy(BASE, address, 64))), faulted(address, FaultReason::Gone));
    }
    drop(stdin);
    child.wait().expect("it ends");
    assert_eq!(fault(&client.run_one(copy(heap, BASE, 64))), faulted(heap, FaultReason::Gone));
}

/// Where the first writable range of a process begins.
fn first_address(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let line = maps.lines().find(|line| line.contains(" rw-p ")).expect("a writable range");
    u64::from_str_radix(line.split('-').next().expect("a number"), 16).expect("a number")
}

/// A duplicate of an open file of another process.
fn open_file_of(pid: u32, fd: i32) -> OwnedFd {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it lives");
    rustix::process::pidfd_getfd(&pidfd, fd, rustix::process::PidfdGetfdFlags::empty()).expect("it is ours")
}

#[test]
fn the_windows_of_a_ring_that_is_closing_are_set_by_nobody() {
    let (mut rig, _client) = Rig::new();
    rig.closes(QUEUE);
    let attach = AttachMemory { timeline: QUEUE, windows: Vec::new() };
    let given = rig.rings.attach_memory(&rig.instance, &attach, own_fd(Access::Read)).expect("a thread");
    let set = rig.rings.set_windows(&SetWindows { timeline: QUEUE, windows: Vec::new() });
    assert_eq!((given, set), (Windows::Nobodys, Windows::Nobodys));
}

#[test]
fn windows_that_are_set_while_an_entry_runs_are_told_of_when_it_has_ended() {
    let (mut rig, mut client) = Rig::new();
    let own = Own::new();
    rig.give(own_fd(Access::Write), vec![own.window(0..8, Access::Write)]);
    client.push(&[bare(op::GATE), copy(own.at(0), BASE, 8)]);
    rig.wait_at_gate();
    let set = rig.rings.set_windows(&SetWindows { timeline: QUEUE, windows: Vec::new() });
    assert_eq!((set, rig.heard()), (Windows::UnderWay, Vec::new()), "the entry may use them");
    rig.open_gate();
    assert_eq!(rig.hear(), WindowsSet { timeline: QUEUE }.into());
    assert_eq!([client.reap(), client.reap()].map(|done| code(&done)), [None, Some(ErrorCode::AddressFault)]);
}
