//! Timelines that pass from client to client, and who sees them (T8).
//!
//! A token names a right of a timeline for whoever shows it first: 128 random bits, which the shell draws
//! ([`Effect::DrawToken`]) because core has no randomness. It is good once, for a short time, while its exporter is
//! connected. To wait may be passed on as often as one likes; to signal moves: from the moment it is exported nobody can
//! signal until it is imported, and it can only be exported while nobody could notice a difference.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::client::{ExportTimeline, TimelineExported, TimelineObserved};
use vgem_proto::rights::TimelineRights;

use crate::accounts::Resource;
use crate::broker::Broker;
use crate::credits::FDS_OF_PAIR;
use crate::deadlines::Timer;
use crate::io::{Attach, Effect};
use crate::objects::Awaiting;
use crate::pairs::Party;
use crate::policy::{self, Action};
use crate::promises::no_such_timeline;
use crate::queues::QueueState;
use crate::requests::{Outcome, full_table};
use crate::spares::Sight;
use crate::tables::HandleTable;
use crate::timelines::{TimelineEvent, TimelineHeld};

/// A right that is on its way.
#[derive(Debug)]
pub(crate) struct Token {
    asker: Awaiting,
    pub(crate) key: TimelineKey,
    rights: TimelineRights,
    /// What names it, once the shell has drawn it.
    words: Option<[u64; 2]>,
    /// When it is good no longer.
    pub(crate) until: Option<Time>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) live: BTreeMap<u64, Token>,
    by_words: BTreeMap<[u64; 2], u64>,
    by_client: BTreeSet<(ClientKey, u64)>,
    last: u64,
}

impl Tokens {
    fn of(&self, client: ClientKey) -> impl Iterator<Item = u64> {
        self.by_client.range((client, 0)..=(client, u64::MAX)).map(|(_, id)| *id)
    }

    fn remove(&mut self, id: u64) -> Option<Token> {
        let token = self.live.remove(&id)?;
        self.by_client.remove(&(token.asker.client, id));
        if let Some(words) = token.words {
            self.by_words.remove(&words);
        }
        Some(token)
    }
}

impl Broker {
    /// A client wants to give another one a right of a timeline.
    pub(crate) fn export_timeline(&mut self, now: Time, asker: Awaiting, export: &ExportTimeline) -> Outcome {
        let (key, rights) = self.find_timeline(asker.client, export.timeline)?;
        let grant = policy::authorise_timeline(key, rights, export.rights)?;
        let bound = self.config.bounds.tokens;
        let open = self.tokens.of(asker.client).count();
        if open >= bound {
            let text = "exports of timelines by one client that nobody has taken yet";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(open as u64 + 1, bound as u64));
        }
        if export.rights.contains(TimelineRights::SIGNAL) {
            self.give_signalling_up(asker.client, grant.timeline(), export.timeline)?;
        }
        self.tokens.last += 1;
        let id = self.tokens.last;
        let mut token = Token { asker, key, rights: export.rights, words: None, until: None };
        self.timers.arm(Timer::Token(id), &mut token.until, now.after(self.config.times.token_ns));
        self.tokens.live.insert(id, token);
        self.tokens.by_client.insert((asker.client, id));
        self.out.push(Effect::DrawToken { id });
        Ok(())
    }

    /// From now on nobody signals a timeline that was never used.
    fn give_signalling_up(&mut self, client: ClientKey, key: TimelineKey, handle: TimelineHandle) -> Outcome {
        let Some(promises) = self.promises.get_mut(key) else { return Err(no_such_timeline(handle)) };
        let next = promises.state.after(TimelineEvent::Pass).filter(|_| promises.is_untouched());
        let Some(next) = next else {
            let text =
                "the right to signal can be passed on only before anything was promised, signalled or seen";
            return Err(Refusal::new(ErrorCode::Busy, text));
        };
        promises.state = next;
        promises.signaller = None;
        let primary = promises.primary.take();
        if let Some(client) = self.clients.get_mut(client) {
            client.signals.timelines.retain(|other| *other != key);
            if let Some(held) = client.timelines.get_mut(handle.0) {
                held.rights.remove(TimelineRights::SIGNAL);
            }
        }
        if let Some(primary) = primary {
            self.release_primary(primary);
        }
        Ok(())
    }

    /// The shell has drawn the bits of a token.
    pub(crate) fn token_drawn(&mut self, id: u64, words: [u64; 2]) {
        let Some(token) = self.tokens.live.get_mut(&id) else { return };
        token.words = Some(words);
        let (asker, until) = (token.asker, token.until.unwrap_or_default());
        self.tokens.by_words.insert(words, id);
        self.reply(asker.link, asker.request, TimelineExported { token: words, until });
    }

    /// A token was not used in time, or its exporter is gone.
    pub(crate) fn drop_token(&mut self, now: Time, id: u64, why: &str) {
        let Some(mut token) = self.tokens.remove(id) else { return };
        self.timers.disarm(Timer::Token(id), &mut token.until);
        let Token { asker, words, .. } = token;
        if words.is_none() && self.clients.contains(asker.client) {
            let refusal = Refusal::new(ErrorCode::System, "no random bits for a token");
            self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
        }
        if token.rights.contains(TimelineRights::SIGNAL) {
            let text = format!("nobody signals the timeline: the right to was passed on, and {why}");
            self.lose_timeline(now, token.key, text);
        }
    }

    /// All tokens of a client that is gone.
    pub(crate) fn drop_tokens_of(&mut self, now: Time, client: ClientKey) {
        let ids: Vec<u64> = self.tokens.of(client).collect();
        for id in ids {
            self.drop_token(now, id, "the client that passed it on is gone");
        }
    }

    /// A client shows a token.
    pub(crate) fn import_timeline(&mut self, asker: Awaiting, words: [u64; 2]) -> Outcome {
        let id = self.tokens.by_words.get(&words).copied().ok_or_else(|| {
            let text = "this token names no timeline: it is used up, too old, or never was";
            Refusal::new(ErrorCode::NoSuchHandle, text)
        })?;
        let found = self.tokens.live.get(&id).map(|token| (token.key, token.rights));
        let Some((key, rights)) = found.filter(|(key, _)| self.shown_places(*key).is_some()) else {
            return Err(Refusal::new(ErrorCode::Gone, "the timeline of this token is no more"));
        };
        let client = self.find_client(asker.client)?;
        if !client.timelines.has_room() {
            return Err(full_table(HandleTable::<TimelineHeld>::ROWS));
        }
        let grant = policy::authorise(client.subject(), Action::ImportTimeline)?;
        let signals = rights.contains(TimelineRights::SIGNAL);
        let fds = if signals { self.find_primary_room(asker.client)? } else { 0 };
        let [charge, page, export] = self.accounts.charge_all(
            grant.domain(),
            [(Resource::Timelines, 1), (Resource::Pages, u64::from(fds > 0)), (Resource::Exports, fds)],
        )?;
        if let Some(mut token) = self.tokens.remove(id) {
            self.timers.disarm(Timer::Token(id), &mut token.until);
        }
        let handle = self.add_timeline_handle(asker.client, TimelineHeld { key, rights, charge });
        if signals {
            if let Some(promises) = self.promises.get_mut(key) {
                promises.state = promises.state.after(TimelineEvent::Take).unwrap_or(promises.state);
                promises.domain = grant.domain();
            }
            self.take_signalling(asker.client, key, handle, page);
        } else {
            self.accounts.give_back(page);
        }
        self.say_timeline_opened(asker, handle, key, rights, export);
        Ok(())
    }

    /// A client asks where it sees a timeline.
    pub(crate) fn observe_timeline(&mut self, asker: Awaiting, handle: TimelineHandle) -> Outcome {
        let (key, rights) = self.find_timeline(asker.client, handle)?;
        let grant = policy::authorise_timeline(key, rights, TimelineRights::WAIT)?;
        let (signaller, promised) = self.find_signaller(grant.timeline())?;
        let observer = Party::Client(asker.client);
        if signaller == observer {
            let text = "this client signals the timeline itself, and sees it in its primary page";
            return Err(Refusal::new(ErrorCode::Busy, text));
        }
        let lacking = self.lacking_for(std::iter::once(Sight { timeline: key, signaller, observer }));
        let fds = FDS_OF_PAIR * u64::from(!lacking.is_empty() || self.unsent_pages(asker.client) > 0);
        let domain = self.find_client(asker.client)?.peer.domain;
        self.find_guest_pages(domain, &lacking)?;
        self.find_spares(asker.client, &lacking)?;
        let wanted = [(Resource::Exports, fds), (Resource::Pages, lacking.len() as u64)];
        let [export, given] = self.accounts.charge_all(domain, wanted)?;
        self.give_spares(lacking, Some(given));
        let Some((pair, page, slot, is_new)) = self.place_for_client(key, asker.client) else {
            self.accounts.give_back(export);
            self.bug(format!("no slot to show {key} in, though there was one"));
            return Err(Refusal::new(ErrorCode::Gone, "the timeline is no more"));
        };
        let observed = TimelineObserved { key, page, promised, slot, reserved: Zero };
        if is_new {
            self.reply_with_fds(asker, observed, Attach::Observer(pair), export);
        } else {
            self.accounts.give_back(export);
            self.reply(asker.link, asker.request, observed);
        }
        Ok(())
    }

    /// Who signals a timeline, and what is promised of it.
    fn find_signaller(&self, key: TimelineKey) -> Result<(Party, Point), Refusal> {
        if let Some(queue) = self.queues.get(key) {
            // Once its jobs have ended a driver that closes a queue cannot show it any more.
            let is_closing = queue.state == QueueState::Closing && queue.jobs.is_empty();
            return match self.instances.contains_key(&queue.instance) {
                _ if is_closing => {
                    Err(Refusal::new(ErrorCode::Gone, "the queue is closed; ask for its points"))
                }
                true => Ok((Party::Instance(queue.instance), queue.promised)),
                false => Err(Refusal::new(ErrorCode::Gone, "the instance that signalled the queue is gone")),
            };
        }
        let Some(promises) = self.promises.get(key) else {
            return Err(Refusal::new(ErrorCode::Gone, "the timeline is no more"));
        };
        match (promises.signaller, promises.verdict) {
            (Some(client), _) => Ok((Party::Client(client), promises.promised)),
            (None, None) => {
                let text = "nobody signals this timeline yet: the right to is on its way";
                Err(Refusal::new(ErrorCode::NotReady, text))
            }
            (None, Some(verdict)) => {
                let text = "the timeline is over and shown nowhere; ask for its points";
                Err(Refusal::new(ErrorCode::Gone, text).with(0, verdict.from.0))
            }
        }
    }
}
