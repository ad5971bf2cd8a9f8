//! Which way an operation goes: measured at start, chosen for each size, and said why.
//!
//! It copies, packs and hashes pieces from 64 bytes to 64 MiB and prints how each was done; for one of them the whole
//! reasoning. `--own-cpu` asks for the way that leaves this thread's CPU free, instead of the one that is done first. It
//! starts a broker of its own. With a running one, `vgem::Client::connect_default()` takes the place of the first two lines.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vgem::{Access, Deadline, Embedded};
use vgem_plan::{Aim, Draft, Plan, PlanOptions};

const SIZES: [u64; 6] = [64, 1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20];
const MOST: u64 = 64 << 20;
const OPERATIONS: [(&str, &str); 3] = [("copy", "copy"), ("zip", "compress"), ("sec", "sha256")];

fn main() -> anyhow::Result<()> {
    let broker = Embedded::start()?;
    let client = broker.client()?;
    let aim = if std::env::args().any(|arg| arg == "--own-cpu") { Aim::OwnCpu } else { Aim::Latency };

    let began = Instant::now();
    let plan = Plan::measure(&client, &PlanOptions::new().aim(aim))?;
    let ops = plan.thresholds().devices.values().flatten().count();
    eprintln!("{ops} operations measured in {:.0?}, the start of three drivers included\n", began.elapsed());

    let (from, to) = (client.create(MOST)?, client.create(MOST + MOST / 8 + 1024)?);
    from.write(.., Duration::from_secs(1))?.fill(b'v');
    // What is bound may go by user queue; nothing else has to be said about it.
    let bound = [plan.bind(&from, Access::Read)?, plan.bind(&to, Access::Write)?];

    for (device, op) in OPERATIONS {
        for size in SIZES {
            let done =
                written(&plan, device, op, &from, &to, size).run(Deadline::after(Duration::from_secs(30)))?;
            eprint!("{}", done.explain().to_string().lines().next().unwrap_or_default());
            eprintln!(" -> {} bytes", done.produced());
        }
    }
    eprintln!("\n{}", written(&plan, "zip", "compress", &from, &to, 256 << 10).explain()?);

    bound.into_iter().try_for_each(|bound| plan.unbind(bound))?;
    Ok(())
}

/// A call over the first bytes of both buffers; an operation that only reads leaves the second alone.
fn written<'p, 'a>(
    plan: &'p Plan,
    device: &str,
    op: &str,
    from: &'a vgem::Buffer,
    to: &'a vgem::Buffer,
    size: u64,
) -> Draft<'p, 'a, Plan> {
    let call = plan.call(device, op).input(from.slice(..size));
    if device == "sec" { call } else { call.output(to.slice(..size + size / 8 + 1024)) }
}
