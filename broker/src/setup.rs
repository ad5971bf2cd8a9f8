//! What the keeper tells the broker at start, as the JSON of `keeper::Setup`.
//!
//! Both are the same program, so this is no protocol that others speak; it holds what only the keeper, which is
//! not confined, could find out.

use serde::{Deserialize, Serialize};

use crate::config::{Policy, Restart, Times};

/// The keeper's word to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Who may hold and use what.
    pub policy: Policy,
    /// How long things may take.
    pub times: Times,
    /// How a device that was lost comes back.
    pub restart: Restart,
    /// The user whose instances are to run before it asks (user and embedded mode).
    pub prestart: Option<u32>,
    /// What the keeper found out about machine and process, one line per feature, for tools.
    pub features: Vec<String>,
    /// Which bus there will be a control for; none if there will be none.
    pub control: Option<String>,
    /// Whether control may have sessions that administer.
    pub administration: bool,
    /// How much the keeper may pin, bytes; none is as much as there is.
    pub pin_limit: Option<u64>,
}
