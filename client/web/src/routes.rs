//! Which path is answered by what.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::guard::{self, Hosts};
use crate::lookout::{Lookout, Watching};
use crate::metrics;
use crate::rates::Sample;
use crate::seen::{Seen, event};

/// Most that watch at a time, the page open in each.
const VIEWERS: usize = 32;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// What answers have in common.
#[derive(Debug, Clone)]
struct Shared {
    lookout: Arc<Lookout<Seen>>,
    viewers: Arc<Semaphore>,
}

/// All paths there are.
pub(crate) fn routes(lookout: Arc<Lookout<Seen>>, hosts: Hosts) -> Router {
    let file =
        |kind: &'static str, text: &'static str| get(async move || ([(header::CONTENT_TYPE, kind)], text));
    Router::new()
        .route("/", file(HTML, include_str!("../page/page.html")))
        .route("/page.css", file(CSS, include_str!("../page/page.css")))
        .route("/page.js", file(SCRIPT, include_str!("../page/page.js")))
        .route("/charts.js", file(SCRIPT, include_str!("../page/charts.js")))
        .route("/dom.js", file(SCRIPT, include_str!("../page/dom.js")))
        .route("/graph.js", file(SCRIPT, include_str!("../page/graph.js")))
        .route("/icon.svg", file(SVG, include_str!("../page/icon.svg")))
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/metrics", get(numbers))
        .fallback(async || (StatusCode::NOT_FOUND, "There is /, /api/state, /api/events and /metrics.\n"))
        .layer(middleware::from_fn_with_state(hosts, guard::check))
        .with_state(Shared { lookout, viewers: Arc::new(Semaphore::new(VIEWERS)) })
}

/// A state, and what was before it.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    state: &'a crate::state::State,
    history: &'a [Arc<Sample>],
}

async fn state(State(shared): State<Shared>) -> Response {
    let Some(seen) = shared.lookout.once().await else { return late() };
    let whole = Whole { state: &seen.state, history: &seen.history };
    match serde_json::to_string(&whole) {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn numbers(State(shared): State<Shared>) -> Response {
    let Some(seen) = shared.lookout.once().await else { return late() };
    match metrics::text(&seen, shared.lookout.watchers()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn late() -> Response {
    (StatusCode::GATEWAY_TIMEOUT, "The broker does not answer in time.\n").into_response()
}

/// One who watches. The first thing it is told is what was before.
struct Viewer {
    watching: Watching<Seen>,
    next: Option<Bytes>,
    has_history: bool,
    _permit: OwnedSemaphorePermit,
}

async fn events(State(shared): State<Shared>) -> Response {
    let Ok(permit) = Arc::clone(&shared.viewers).try_acquire_owned() else {
        let why = "As many watch as may: close a page, or ask for /api/state.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], why).into_response();
    };
    let viewer = Viewer { watching: shared.lookout.watch(), next: None, has_history: false, _permit: permit };
    let events = stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(event), viewer))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

impl Viewer {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(event) = self.next.take() {
            return Some(event);
        }
        let seen = self.watching.next().await?;
        if self.has_history {
            return Some(seen.event.clone());
        }
        self.has_history = true;
        self.next = Some(seen.event.clone());
        Some(event("history", &seen.history))
    }
}
