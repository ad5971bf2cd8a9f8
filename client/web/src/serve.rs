//! Serving: a socket, confinement, and connections of which there is a bound.
//!
//! ```text
//!   bind ─► confine ─► say where ─► accept, at most so many at a time, each with little patience
//! ```

use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};
use tracing_subscriber::EnvFilter;
use vgem_os::OsError;
use vgem_os::confine::{self, Demand};
use vgem_os::lines::Lines;

use crate::broker::Broker;
use crate::cli::Cli;
use crate::guard::Hosts;
use crate::listen::{Address, Bound, Caller, Listener};
use crate::lookout::Lookout;
use crate::routes::routes;
use crate::seen::{Observer, Seen};

/// Connections at a time. Who comes beyond waits.
const CONNECTIONS: usize = 64;
/// Longest request, bytes; nothing that is asked here is half as long.
const REQUEST_LEN: usize = 16 << 10;
/// Most headers of a request.
const HEADERS: usize = 64;
/// How long a request may take to come, and a connection to bring the next one.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until accepting is tried again after it failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The socket cannot be had.
    #[error("cannot listen at {0}: {1}")]
    Listen(Address, io::Error),
    /// The kernel refused to confine it.
    #[error("cannot be confined: {0}")]
    Confine(#[from] OsError),
    /// No runtime.
    #[error("no runtime: {0}")]
    Runtime(#[from] io::Error),
    /// The words of `--log` are none.
    #[error("--log {0:?}: {1}")]
    Log(String, String),
}

/// Serves until it is told to end.
///
/// # Errors
/// Why it could not begin.
pub(crate) fn run(cli: &Cli) -> Result<(), Ended> {
    log(&cli.log)?;
    let cannot = |error| Ended::Listen(cli.listen.clone(), error);
    let bound = Bound::at(&cli.listen).map_err(cannot)?;
    let address = bound.address(&cli.listen).map_err(cannot)?;
    // Before the first other thread, and before a word from anybody.
    let confined = confine::web(Demand::BestEffort)?;
    debug!("{confined:?}");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    let served = runtime.block_on(serve(cli, bound, &address));
    // A broker that does not answer holds up nobody's end.
    runtime.shutdown_background();
    served
}

async fn serve(cli: &Cli, bound: Bound, address: &Address) -> Result<(), Ended> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let lookout = Arc::new(Lookout::new());
    let hosts: Hosts = cli.host.iter().map(|host| host.to_ascii_lowercase()).collect();
    let router = routes(Arc::clone(&lookout), hosts);
    let listener = Listener::of(bound)?;
    info!("listening at {address}");
    // Whoever started this reads where it is; that nobody reads it is no failure.
    drop(writeln!(io::stdout(), "{address}"));
    tokio::select! {
        () = look(&lookout, Observer::new(Broker::new(cli.socket.clone()))) => {}
        () = accept(&listener, &router) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Looks for all who watch, on a thread that may block.
async fn look(lookout: &Lookout<Seen>, observer: Observer) {
    let observer = Arc::new(Mutex::new(observer));
    lookout
        .run(async || {
            let observer = Arc::clone(&observer);
            let look = move || observer.lock().unwrap_or_else(PoisonError::into_inner).look();
            tokio::task::spawn_blocking(look).await.unwrap_or_default()
        })
        .await;
}

async fn accept(listener: &Listener, router: &Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let caller = match listener.accept().await {
            Ok(caller) => caller,
            Err(error) => {
                warn!("cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            match caller {
                Caller::Tcp(stream) => talk(stream, router).await,
                Caller::Unix(stream) => talk(stream, router).await,
            }
            drop(permit);
        });
    }
}

/// One connection, until it ends.
async fn talk(stream: impl Read + Write + Unpin, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(REQUEST_LEN)
        .max_headers(HEADERS)
        .serve_connection(stream, TowerToHyperService::new(router));
    if let Err(error) = Pin::from(Box::new(served)).await {
        debug!("a connection ended: {error}");
    }
}

fn log(filter: &str) -> Result<(), Ended> {
    let wrong = |why: String| Ended::Log(filter.to_owned(), why);
    let filter = EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()))?;
    let lines = Lines::to_stderr().map_err(|error| wrong(error.to_string()))?;
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(Arc::new(lines))
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .try_init()
        .map_err(|error| wrong(error.to_string()))
}
