//! Peer to peer: callers that connect to a socket of control's own, without a bus.
//!
//! ```text
//!   connects ─► whose is it? the kernel says ─► handshake ─► served, as on a bus ─► hangs up: its session ends
//! ```
//!
//! For a daemon that serves one user: what a bus does to bound its callers nothing does here. So whoever connects is that
//! user, and may do what it may do to itself.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info};
use zbus::connection::Builder;
use zbus::export::futures_core::Stream;
use zbus::fdo::ObjectManager;
use zbus::{Guid, MessageStream};

use crate::PATH;
use crate::answers::Answers;
use crate::callers::Callers;
use crate::error::Result;
use crate::link::{Broker, Identity};
use crate::manager::{Manager, Shared};
use crate::serve::{client, own_identity};
use crate::tree::{Change, Objects, Place, Tree, copy};

/// Peers at once.
const PEERS: usize = 64;
/// How long one may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);

/// What all peers share.
struct Common {
    broker: Broker,
    callers: Arc<Callers>,
    answers: Arc<Answers>,
    objects: Arc<Mutex<Objects>>,
    changes: mpsc::Sender<Change>,
}

/// Serves peers until the broker goes.
///
/// # Errors
/// How that was noticed.
pub(crate) async fn serve(broker: &Broker, listener: &UnixListener, one_user: bool) -> Result<()> {
    let own = own_identity();
    let (asker, watcher) = (client(broker, own).await?, client(broker, own).await?);
    let monitor = watcher.monitor().await?;
    let mut tree = Tree::new(asker, one_user);
    tree.refresh().await?;
    let (changes, changed) = mpsc::channel(PEERS);
    let (callers, answers, objects) = (Arc::default(), Arc::default(), tree.objects());
    let common = Arc::new(Common { broker: broker.clone(), callers, answers, objects, changes });
    info!("serves peers");
    tokio::select! {
        () = accept(listener, &common) => Ok(()),
        followed = tree.follow(watcher, monitor, changed) => followed,
    }
}

async fn accept(listener: &UnixListener, common: &Arc<Common>) {
    let room = Arc::new(Semaphore::new(PEERS));
    for number in 0.. {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let common = Arc::clone(common);
                tokio::spawn(async move {
                    if let Err(e) = peer(number, stream, &common).await {
                        debug!("peer {number}: {e}");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                debug!("no peer taken: {e}");
                tokio::time::sleep(GREETING).await;
            }
        }
    }
}

/// One peer, until it hangs up.
async fn peer(number: u64, stream: UnixStream, common: &Common) -> Result<()> {
    let said = stream.peer_cred().map_err(zbus::Error::from)?;
    let pid = said.pid().map_or(0, i32::unsigned_abs);
    let whose = Identity { uid: said.uid(), pid };
    let (callers, answers) = (Arc::clone(&common.callers), Arc::clone(&common.answers));
    let shared = Arc::new(Shared::of_peer(common.broker.clone(), callers, answers, number, whose));
    let shown = copy(&common.objects);
    let stream = stream.into_std().map_err(zbus::Error::from)?;
    let builder = Builder::unix_stream(stream)
        .server(Guid::generate())
        .p2p()
        .serve_at(PATH, Manager(Arc::clone(&shared)))
        .serve_at(PATH, ObjectManager);
    let building = shown.begin(builder, &shared).build();
    let built = tokio::time::timeout(GREETING, building).await;
    let connection = built.map_err(|_| zbus::Error::Handshake("it says nothing".into()))??;
    let mut messages = MessageStream::from(&connection);
    let place = Place::with(connection, Arc::clone(&shared), shown);
    drop(common.changes.send(Change::Came(number, place)).await);
    while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut messages).poll_next(context)).await {}
    drop(common.changes.send(Change::Went(number)).await);
    shared.sessions.clear();
    Ok(())
}
