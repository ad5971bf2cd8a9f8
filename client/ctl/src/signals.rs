//! Being asked to end, by SIGINT or SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

/// Becomes true when we are asked to end.
pub(crate) fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let kind = tokio::signal::unix::SignalKind::terminate();
    let mut end = tokio::signal::unix::signal(kind).context("watching for SIGTERM")?;
    let kind = tokio::signal::unix::SignalKind::interrupt();
    let mut interrupt = tokio::signal::unix::signal(kind).context("watching for SIGINT")?;
    drop(guard);
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = end.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        raised.store(true, Ordering::Release);
    };
    std::thread::Builder::new().name("vgemctl-signals".into()).spawn(wait)?;
    Ok(flag)
}
