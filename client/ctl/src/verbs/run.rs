//! `vgemctl run`: one operation of any device, on files.
//!
//! The output's size is guessed from the input's and grown while the device says that it does not fit.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use vgem::{Cell, Cells, Client, Direction, Error, ErrorCode, Op, Operation, Queue};

use crate::cli::{Common, Format, Run};
use crate::exit::Usage;
use crate::reach::{Otherwise, reach};
use crate::verbs::files::{self, LEN_MAX, Loaded};
use crate::verbs::plan::{Plan, Source, plan, value};
use crate::{human, print};

/// The smallest first guess of an output's size, bytes.
const GUESS: u64 = 64 * 1024;
/// How much the output grows when it was too small.
const GROWTH: u64 = 4;
/// How long the job is waited for if neither it nor the command line says.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What became of the job.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    op: String,
    /// Bytes of the output.
    produced: u64,
    /// What the operation calls its value.
    value_means: String,
    value: u64,
    digest: Option<String>,
    busy_ns: u64,
    output: Option<String>,
}

pub(crate) fn run(common: &Common, run: &Run) -> anyhow::Result<()> {
    let reached = reach(common, Otherwise::Start)?;
    let client = &reached.client;
    let device = client.device(&run.device)?;
    let op = device.op(&run.op)?;
    let plan = plan(op.operation(), &run.files, &run.operand)?;
    let makes_data = plan.given.iter().any(|one| one.result);
    if makes_data && plan.out == "-" && common.format == Format::Json {
        return Err(Usage(
            "with --format json the output needs a file; standard output is for the JSON".into(),
        )
        .into());
    }
    // Room for retries: the broker hears of an ended job up to a millisecond after us.
    let queue = device.queue(16)?;
    let loaded = load(client, &plan)?;
    let (made, cell) = attempt(client, &queue, &op, run, &plan, &loaded)?;
    let produced = match (&made, has_cell(op.operation())) {
        (Some(made), true) => cell.produced().min(made.len),
        (Some(made), false) => made.len,
        (None, _) => 0,
    };
    if let Some(made) = &made {
        files::store(&made.buffer, produced, &plan.out)?;
    }
    let report = report(&device, &op, &plan, makes_data, produced, &cell);
    match (common.format, makes_data) {
        (Format::Json | Format::Jsonl, _) => print::either(common.format, &report, |_| Vec::new()),
        (Format::Dot, _) => Err(print::not_drawn()),
        (Format::Table, true) => Ok(()),
        (Format::Table, false) => files::store_bytes(line(&report, &plan).as_bytes(), &plan.out),
    }
}

/// Reads what the plan reads; nothing where an operand is only written.
fn load(client: &Client, plan: &Plan) -> anyhow::Result<Vec<Option<Loaded>>> {
    let load = |source: &Source| match source {
        Source::File(name) => files::load(client, name).map(Some),
        Source::Zeros => Ok(None),
    };
    plan.given.iter().map(|one| load(&one.source)).collect()
}

/// Runs the job with growing outputs until it fits; gives the output, if there is one, and the result.
fn attempt(
    client: &Client,
    queue: &Queue,
    op: &Op,
    run: &Run,
    plan: &Plan,
    loaded: &[Option<Loaded>],
) -> anyhow::Result<(Option<Loaded>, Cell)> {
    let cells = client.cells(1)?;
    let inputs: u64 = loaded.iter().flatten().map(|one| one.len).sum();
    let mut size = run.output_size.unwrap_or_else(|| (inputs + inputs / 8 + GUESS).min(LEN_MAX));
    loop {
        let outputs = outputs(client, plan, loaded, size)?;
        match once(client, queue, op, run, plan, loaded, &outputs, &cells) {
            Ok(()) => {
                let result = plan.given.iter().zip(outputs).find(|(one, _)| one.result);
                return Ok((result.and_then(|(_, made)| made), cells.read(0)));
            }
            Err(error) if is_too_small(&error) && size < LEN_MAX => {
                size = size.saturating_mul(GROWTH).min(LEN_MAX);
            }
            Err(error) if is_too_small(&error) => {
                return Err(error).context(format!("the output does not fit into {}", human::bytes(LEN_MAX)));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Buffers for what is only written, and copies of what is read and written, so that a second attempt begins afresh.
fn outputs(
    client: &Client,
    plan: &Plan,
    loaded: &[Option<Loaded>],
    size: u64,
) -> anyhow::Result<Vec<Option<Loaded>>> {
    let make = |one: &crate::verbs::plan::Given, from: &Option<Loaded>| -> anyhow::Result<Option<Loaded>> {
        match (one.direction, from) {
            (Direction::In | Direction::Cell, _) => Ok(None),
            (Direction::Out | Direction::InOut, None) => {
                let buffer = files::make(client, size, "output")?;
                Ok(Some(Loaded { buffer, len: size }))
            }
            (Direction::Out | Direction::InOut, Some(from)) => {
                let buffer = files::make(client, from.len, "output")?;
                let second = Duration::from_secs(1);
                buffer.write(..from.len, second)?.copy_from_slice(&from.buffer.read(..from.len, second)?);
                Ok(Some(Loaded { buffer, len: from.len }))
            }
        }
    };
    plan.given.iter().zip(loaded).map(|(one, from)| make(one, from)).collect()
}

#[expect(clippy::too_many_arguments, reason = "a job has as many parts")]
fn once(
    client: &Client,
    queue: &Queue,
    op: &Op,
    run: &Run,
    plan: &Plan,
    loaded: &[Option<Loaded>],
    outputs: &[Option<Loaded>],
    cells: &Cells,
) -> anyhow::Result<()> {
    let mut batch = client.batch();
    let mut job = batch.job(queue, op);
    for ((one, input), output) in plan.given.iter().zip(loaded).zip(outputs) {
        if let Some(given) = output.as_ref().or(input.as_ref()) {
            job = job.operand(one.operand.as_str(), given.buffer.slice(..given.len));
        }
    }
    for (name, text) in &run.param {
        job = job.param(name.as_str(), value(op.operation(), name, text)?);
    }
    if has_cell(op.operation()) {
        job = job.result(cells.at(0));
    }
    let patience = match run.timeout {
        Some(seconds) => {
            let limit = Duration::from_secs(seconds);
            job.timeout(limit);
            limit + Duration::from_secs(60)
        }
        None => PATIENCE,
    };
    batch.submit_acknowledged()?.wait(patience).map_err(|error| Error::from(error).into())
}

fn is_too_small(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().and_then(Error::code) == Some(ErrorCode::OutputTooSmall)
}

fn has_cell(operation: &Operation) -> bool {
    operation.operands.iter().any(|operand| operand.direction == Direction::Cell)
}

fn report(
    device: &vgem::Device,
    op: &Op,
    plan: &Plan,
    makes_data: bool,
    produced: u64,
    cell: &Cell,
) -> Report {
    let digest = cell.digest();
    Report {
        device: device.name().to_owned(),
        op: op.operation().name.clone(),
        produced,
        value_means: op.operation().value.clone(),
        value: cell.value(),
        digest: (digest != [0; 32]).then(|| human::hex(&digest)),
        busy_ns: u64::try_from(cell.busy().as_nanos()).unwrap_or(u64::MAX),
        output: makes_data.then(|| plan.out.clone()),
    }
}

/// What an operation without data found out, as sha256sum and b3sum print it.
fn line(report: &Report, plan: &Plan) -> String {
    let found = report.digest.clone().unwrap_or_else(|| report.value.to_string());
    match &plan.named {
        Some(file) => format!("{found}  {}\n", human::text(file)),
        None => format!("{found}\n"),
    }
}
