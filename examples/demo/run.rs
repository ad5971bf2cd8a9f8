//! A whole run: start a private broker, pack, unpack, report.
//!
//! The packed file is written beside its final place under another name and gets its own name only when every chunk has
//! come back equal. Whatever goes wrong, that other file is removed on the way out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use tempfile::TempPath;
use vgem::{Client, Embedded};

use crate::args::Args;
use crate::lanes::Stage;
use crate::pipeline::{self, Passed, with_retries};
use crate::progress;
use crate::report::{DeviceRow, Direction, Report};
use crate::source::Source;
use crate::trace::Trace;

/// Runs the demo.
pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let source = Source::find(args.file.as_deref())?;
    let packed = packed_place(args.output.as_deref())?;
    let key = random_key()?;
    // A lost device is told by the job that fails with it, once.
    let broker = Embedded::builder().log("error").start().context("cannot start a private broker")?;
    let client = broker.client()?;
    let before = client.status()?.counters;
    let mut trace = Trace::default();

    let chunks = source.len.div_ceil(args.chunk_kib << 10);
    let frames = client.cells(usize::try_from(chunks).context("too many chunks")?)?;

    let bar = progress::bar("pack", source.len);
    let ((stage, appender, packing), lost_packing) = with_retries(args.retry, || {
        trace.cut(0);
        bar.set_position(0);
        let stage = Stage::open(client.clone(), args, &source, &key, &frames)?;
        let appender = stage.appender(&packed)?;
        let passed = pipeline::pack(&stage, &appender, &mut trace, |bytes| bar.inc(bytes))?;
        Ok((stage, appender, passed))
    })?;
    bar.finish_and_clear();

    let bar = progress::bar("unpack", source.len);
    let out = trace.len();
    // The devices know the buffers of the way out already; only after a loss are there new ones.
    let mut known = Some(stage);
    let (unpacking, lost_unpacking) = with_retries(args.retry, || {
        trace.cut(out);
        bar.set_position(0);
        let mut stage = match known.take() {
            Some(stage) => stage,
            None => Stage::open(client.clone(), args, &source, &key, &frames)?,
        };
        stage.open_packed(&packed)?;
        pipeline::unpack(&stage, &mut trace, |bytes| bar.inc(bytes))
    })?;
    bar.finish_and_clear();

    // Closed only now: a message to close a queue is none of the way back.
    drop(appender);

    let trace_path = args.trace.clone().unwrap_or_else(|| std::env::temp_dir().join("vgem-demo-trace.json"));
    trace.write(&trace_path)?;
    if let Some(path) = &args.key {
        std::fs::write(path, key).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let packed_bytes = (0..frames.len()).map(|at| frames.read(at).produced()).sum::<u64>();
    let output = keep(packed, args.output.as_deref())?;
    let after = client.status()?.counters;
    let per_direction = |passed: &Passed| Direction {
        chunks,
        seconds: passed.seconds,
        mb_per_s: source.len as f64 / 1e6 / passed.seconds,
        client_messages_per_chunk: passed.messages as f64 / chunks as f64,
        client_wakeups_per_chunk: passed.wakeups as f64 / chunks as f64,
    };
    let first = packing.first.unwrap_or_else(Instant::now);
    Ok(Report {
        file: source.path.clone(),
        bytes: source.len,
        packed_bytes,
        ratio: packed_bytes as f64 / source.len as f64,
        chunk_bytes: args.chunk_kib << 10,
        lanes: args.lanes,
        first_byte_ms: first.duration_since(begun).as_secs_f64() * 1e3,
        pack: per_direction(&packing),
        unpack: per_direction(&unpacking),
        devices: devices(&client)?,
        bytes_copied_outside_devices: client.counters().bytes_copied,
        broker_signals: (after.points_settled + after.sleepers_woken)
            - (before.points_settled + before.sleepers_woken),
        retries: lost_packing + lost_unpacking,
        sealed: !args.plain,
        output,
        trace: trace_path,
    })
}

/// A new file beside where the packed file is to be kept, or among the temporary files; removed on drop.
fn packed_place(output: Option<&Path>) -> anyhow::Result<TempPath> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".vgem-demo-").suffix(".partial");
    let file = match output {
        Some(path) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = dir.canonicalize().with_context(|| format!("cannot write {}", path.display()))?;
            builder.tempfile_in(dir).with_context(|| format!("cannot write {}", path.display()))?
        }
        None => builder.tempfile().context("cannot make a temporary file")?,
    };
    Ok(file.into_temp_path())
}

fn keep(packed: TempPath, output: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let Some(output) = output else { return Ok(None) };
    packed.persist(output).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(Some(output.to_path_buf()))
}

fn random_key() -> anyhow::Result<[u8; 32]> {
    use std::io::Read as _;
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut key))
        .context("no random numbers")?;
    Ok(key)
}

fn devices(client: &Client) -> anyhow::Result<Vec<DeviceRow>> {
    let mut rows = Vec::new();
    for device in client.device_entries()? {
        let sum =
            |pick: &dyn Fn(&vgem::snapshot::InstanceEntry) -> u64| device.instances.iter().map(pick).sum();
        rows.push(DeviceRow {
            pid: device.instances.first().map_or(0, |i| i.pid),
            jobs: sum(&|i| i.jobs),
            busy_s: sum(&|i| i.busy_ns) as f64 / 1e9,
            bytes: sum(&|i| i.bytes),
            staged_bytes: sum(&|i| i.staged_bytes),
            device: device.name,
        });
    }
    Ok(rows)
}
