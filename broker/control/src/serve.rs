//! Serving: one connection to the bus after the other, or peers, as long as there is a broker.
//!
//! ```text
//!   connect ─► objects ─► name ─► serve ──the bus goes──► every session ends ─► a pause ─► connect
//! ```
//!
//! Objects are there before the name is, so nobody who waits for the name finds less than all of them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use vgem::ClientOptions;
use vgem::aio::Client;
use vgem_os::seqpacket::Socket;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::export::futures_core::Stream;
use zbus::fdo::{DBusProxy, ObjectManager};
use zbus::names::{BusName, OwnedUniqueName};

use crate::error::Result;
use crate::link::{self, Broker, Identity};
use crate::manager::{Manager, Shared};
use crate::polkit::Rights;
use crate::tree::{Place, Tree};
use crate::{Ended, NAME, PATH, peers};

/// Pause before the bus is tried again; doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// Where callers come from.
#[derive(Debug)]
pub(crate) enum Way {
    /// The bus at this address, which is the system's or not.
    Bus(String, bool),
    /// This socket, one by one.
    Peers(std::os::unix::net::UnixListener),
}

/// Serves until the broker goes.
///
/// # Errors
/// How it ended.
pub(crate) async fn serve(link: Socket, way: Way, one_user: bool) -> std::result::Result<(), Ended> {
    let (broker, asked) = link::broker();
    tokio::select! {
        ended = link::run(link, asked) => Err(ended),
        ended = callers(&broker, way, one_user) => ended,
    }
}

async fn callers(broker: &Broker, way: Way, one_user: bool) -> std::result::Result<(), Ended> {
    match way {
        Way::Bus(address, is_system) => {
            buses(broker, (&address, is_system), one_user).await;
            Ok(())
        }
        Way::Peers(listener) => {
            let listener = UnixListener::from_std(listener).map_err(Ended::Runtime)?;
            peers::serve(broker, &listener, one_user).await.map_err(|e| Ended::Broker(e.to_string()))
        }
    }
}

/// One connection after the other, for ever.
async fn buses(broker: &Broker, (address, is_system): (&str, bool), one_user: bool) {
    let mut pause = PAUSE;
    loop {
        let shared = Arc::new(Shared::new(broker.clone(), Rights::of(is_system)));
        match bus(&shared, address, one_user).await {
            Ok(()) => {
                info!("the bus at {address} is gone");
                pause = PAUSE;
            }
            // Said once, and not every few seconds of a day without a bus.
            Err(e) if pause == PAUSE => warn!("not on the bus at {address}: {e}; tried again and again"),
            Err(e) => debug!("not on the bus at {address}: {e}"),
        }
        shared.sessions.clear();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// One connection, until it ends.
async fn bus(shared: &Arc<Shared>, address: &str, one_user: bool) -> Result<()> {
    let own = own_identity();
    // Events come on a connection of their own.
    let (asker, watcher) = (client(&shared.broker, own).await?, client(&shared.broker, own).await?);
    let monitor = watcher.monitor().await?;
    let bus = Builder::address(address)
        .serve_at(PATH, Manager(Arc::clone(shared)))
        .serve_at(PATH, ObjectManager)
        .build()
        .await?;
    let proxy = DBusProxy::new(&bus).await?;
    let leaving = proxy.receive_name_owner_changed().await?;
    // Set once: every connection has a `Shared` of its own.
    drop(shared.bus.set(proxy));
    let mut tree = Tree::new(asker, one_user);
    tree.refresh().await?;
    tree.show_at(0, Place::empty(bus.clone(), Arc::clone(shared))).await?;
    // There is but one place: nothing comes and nothing goes.
    let (_nobody, changes) = mpsc::channel(1);
    bus.request_name(NAME).await?;
    info!("on the bus as {NAME}");
    tokio::select! {
        () = callers_leave(shared, &bus, leaving) => Ok(()),
        followed = tree.follow(watcher, monitor, changes) => followed,
    }
}

/// This process, as the broker knows it.
pub(crate) fn own_identity() -> Identity {
    Identity {
        uid: rustix::process::geteuid().as_raw(),
        pid: rustix::process::getpid().as_raw_nonzero().get().unsigned_abs(),
    }
}

/// A connection of this process's own.
pub(crate) async fn client(broker: &Broker, own: Identity) -> Result<Client> {
    let socket = broker.own_session(own).await?;
    Ok(Client::over(socket, &ClientOptions::new().name("control")).await?)
}

/// Ends the sessions of those who leave, until the bus does.
async fn callers_leave(shared: &Shared, _bus: &Connection, mut leaving: zbus::fdo::NameOwnerChangedStream) {
    while let Some(signal) = poll_fn(|context| Pin::new(&mut leaving).poll_next(context)).await {
        let Ok(args) = signal.args() else { continue };
        if let (BusName::Unique(name), None) = (args.name(), args.new_owner().as_ref()) {
            let name = OwnedUniqueName::from(name.to_owned());
            shared.sessions.gone(&name);
            if let Some(uid) = shared.callers.gone(&name) {
                shared.answers.gone(uid);
            }
        }
    }
}
