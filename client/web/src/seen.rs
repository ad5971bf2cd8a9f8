//! What one look leaves for everybody: the state, made ready once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::rates::{Done, Rates, Sample};
use crate::state::State;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What there is to see.
    pub(crate) state: State,
    /// By its name, what each device has done in all.
    pub(crate) totals: BTreeMap<String, Done>,
    /// Moments before this one, and this one, oldest first.
    pub(crate) history: Vec<Arc<Sample>>,
    /// The state as a server-sent event.
    pub(crate) event: Bytes,
}

/// A server-sent event: `data` as one line of JSON.
pub(crate) fn event(name: &str, data: &impl Serialize) -> Bytes {
    // JSON has no line breaks; and these types have only what JSON can say.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// The one who looks, and what it remembers.
#[derive(Debug)]
pub(crate) struct Observer {
    broker: Broker,
    rates: Rates,
    answers: Option<bool>,
}

impl Observer {
    /// One that looks at this broker.
    pub(crate) fn new(broker: Broker) -> Self {
        Self { broker, rates: Rates::default(), answers: None }
    }

    /// Looks. Blocks while the broker is asked.
    pub(crate) fn look(&mut self) -> Seen {
        let state = match self.broker.look() {
            Ok(look) => State::of(look, &mut self.rates),
            Err(error) => State::away(&error),
        };
        // Said once, and not every second of a day without a broker.
        if self.answers.replace(state.answers) != Some(state.answers) {
            match state.answers {
                true => info!("the broker answers, process {}", state.status.pid),
                false => warn!("no broker answers: {}", state.why_not),
            }
        }
        let (totals, history) = (self.rates.totals().clone(), self.rates.history());
        Seen { event: event("state", &state), state, totals, history }
    }
}
