//! The sec device, called as its executors call it.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

pub(crate) use vgem_driver::testing::{Peer, code, noise, read, write};
use vgem_driver::{JobError, OperandBytes, Options, ParamValue, Produced, testing};
use vgem_driver_sec::SecEngine;
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::{Algorithm, OVERHEAD_LEN};

pub(crate) static ENGINE: LazyLock<SecEngine> = LazyLock::new(|| SecEngine::new(&Options::default()));

pub(crate) const SIZES: [usize; 5] = [0, 1, 63, 64 * 1024, 1024 * 1024 + 1];
pub(crate) const KEY: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";

/// Runs a job with operands by number.
pub(crate) fn run(
    from: Peer,
    op: u16,
    params: &[ParamValue<'_>],
    operands: &[(u8, OperandBytes<'_>)],
) -> Result<Produced, JobError> {
    testing::run(&*ENGINE, from, op, params, operands)
}

pub(crate) fn word(algorithm: Algorithm) -> [ParamValue<'static>; 1] {
    let place = Algorithm::ALL.iter().position(|a| *a == algorithm).expect("an algorithm");
    [ParamValue::Number(place as u64)]
}

pub(crate) fn seal(from: Peer, algorithm: Algorithm, plain: &[u8], aad: Option<&[u8]>) -> Vec<u8> {
    let mut frame = vec![0; plain.len() + OVERHEAD_LEN];
    let mut operands = vec![(0, read(plain)), (1, write(&mut frame)), (2, read(&KEY))];
    operands.extend(aad.map(|aad| (3, read(aad))));
    let done = run(from, op::SEAL, &word(algorithm), &operands).expect("seal");
    assert_eq!((done.len, done.value), (frame.len() as u64, plain.len() as u64));
    frame
}

/// Opens into `output` and answers how many bytes it has then.
pub(crate) fn open_into(
    algorithm: Algorithm,
    frame: &[u8],
    key: &[u8],
    aad: Option<&[u8]>,
    output: &mut [u8],
) -> Result<usize, JobError> {
    let mut operands = vec![(0, read(frame)), (1, write(output)), (2, read(key))];
    operands.extend(aad.map(|aad| (3, read(aad))));
    let done = run(Peer::OwnDomain, op::OPEN, &word(algorithm), &operands)?;
    Ok(usize::try_from(done.len).expect("a length"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a tool prints when it is given `input`.
pub(crate) fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().expect("a file for the tool's input");
    file.write_all(input).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let done = Command::new(program)
        .args(args)
        .stdin(file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    assert!(done.status.success(), "{program}: {}", done.status);
    done.stdout
}
