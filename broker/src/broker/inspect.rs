//! Pages of the broker's state for tools, as JSON that fits one message.
//!
//! A page is taken with fewer entries until it fits. What core cannot know (process, version, pins, features) is
//! filled in here.

use vgem_core::io::{LinkId, Scope};
use vgem_core::snapshot::{Entries, View};
use vgem_os::clock;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::client::Page;
use vgem_proto::snapshot::Topic;

use super::outbox::Packet;
use super::shell::Shell;

/// Entries that are tried first.
const ENTRIES: usize = 128;
/// Most bytes of JSON in a page: what a message holds, less room for its head.
const JSON_LEN: usize = limits::MESSAGE_LEN - 1024;

impl Shell {
    /// Answers a request for a page.
    pub(super) fn inspect(&mut self, link: LinkId, request: u64, scope: Scope, topic: Topic, cursor: u64) {
        let mut max = ENTRIES;
        let page = loop {
            let look = |timeline, pair, slot| self.look(timeline, pair, slot).0;
            let mut page = self.core.snapshot(View { scope, look: &look }, topic, cursor, max);
            self.fill_in(scope, &mut page.entries);
            let json = match to_json(&page.entries) {
                Ok(json) => json,
                Err(e) => {
                    tracing::error!("a bug of ours: {topic:?} is no JSON: {e}");
                    break Page { next: 0, json: b"[]".to_vec() };
                }
            };
            match (json.len() <= JSON_LEN, max) {
                (true, _) => break Page { next: page.next, json },
                // One entry alone is too long to be told: the rest still can be.
                (false, 1) => break Page { next: page.next, json: b"[]".to_vec() },
                (false, _) => max /= 2,
            }
        };
        self.send_client(link, Packet::plain(page.encode(request, Time(0), 0)));
    }

    fn fill_in(&self, scope: Scope, entries: &mut Entries) {
        if let Entries::Status(status) = entries {
            env!("CARGO_PKG_VERSION").clone_into(&mut status.version);
            status.pid = std::process::id();
            status.uptime_ns = clock::now().saturating_sub(self.began);
            match scope {
                Scope::All => {
                    status.pinned_bytes = self.memory.pinning().pinned;
                    status.features = self.features.lines(self.memory.pinning(), self.porters.count());
                }
                // How much others have pinned, and how many import, is not this domain's to know.
                Scope::Domain(_) => status.features = self.features.found_lines(),
            }
            status.features.push(format!("control: {}", self.control.feature()));
        }
    }
}

fn to_json(entries: &Entries) -> Result<Vec<u8>, serde_json::Error> {
    match entries {
        Entries::Status(status) => serde_json::to_vec(&[status]),
        Entries::Devices(devices) => serde_json::to_vec(devices),
        Entries::Objects(objects) => serde_json::to_vec(objects),
        Entries::Clients(clients) => serde_json::to_vec(clients),
        Entries::Queues(queues) => serde_json::to_vec(queues),
        Entries::Timelines(timelines) => serde_json::to_vec(timelines),
        Entries::Obligations(obligations) => serde_json::to_vec(obligations),
        Entries::Domains(domains) => serde_json::to_vec(domains),
    }
}
