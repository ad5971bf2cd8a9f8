//! Fds on their way to clients: credits, who does not read, and what could not be delivered.
//!
//! An fd in a socket's queue counts against the broker (T16), so each is charged until the client has taken it.
//! A client that leaves one unread for too long is disconnected; each has its own time, so that one that reads all the
//! while it asks for more is not. If an fd could not be
//! had or sent, the client was told so, and what it was to have is undone here: handles close, pages count as
//! never sent.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, Handle, PageId, QueueHandle, Time, TimelineHandle};
use vgem_proto::message::client::ClientMessage;

use crate::accounts::Charge;
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::io::{Attach, Effect, LinkId};
use crate::objects::Awaiting;
use crate::pairs::Party;

/// Fds of one pair of pages.
pub(crate) const FDS_OF_PAIR: u64 = 2;

impl Broker {
    /// Answers with fds, and expects that the client takes them.
    pub(crate) fn reply_with_fds(
        &mut self,
        asker: Awaiting,
        message: impl Into<ClientMessage>,
        attach: Attach,
        charge: Charge,
    ) {
        let at = self.now.after(self.config.times.unread_ns);
        match self.clients.get_mut(asker.client) {
            Some(client) => {
                client.unreceived.join(charge);
                if client.unread_at.is_none() {
                    self.timers.arm(Timer::Unread(asker.client), &mut client.unread_at, at);
                }
            }
            None => self.accounts.give_back(charge),
        }
        self.reply_with(asker.link, asker.request, message, attach);
    }

    /// A client has taken all that was sent to it.
    pub(crate) fn received(&mut self, link: LinkId) {
        if let Some(key) = self.clients.key_of(link) {
            self.take_credits(key, u64::MAX);
        }
    }

    fn take_credits(&mut self, key: ClientKey, fds: u64) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let charge = client.unreceived.split(fds.min(client.unreceived.amount()));
        if client.unreceived.amount() == 0 {
            client.is_checked = false;
            self.timers.disarm(Timer::Unread(key), &mut client.unread_at);
        }
        self.accounts.give_back(charge);
    }

    /// A client may have left fds unread for too long.
    pub(crate) fn fds_are_late(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.unread_at = None;
        client.is_checked = true;
        self.out.push(Effect::CheckReceived { link: client.link });
    }

    /// At most so many fds that a client was sent are unread, the oldest of them for so long. One that reads, but
    /// always has some more on their way, is not late.
    pub(crate) fn unreceived(&mut self, now: Time, link: LinkId, fds: u64, since: Time) {
        let Some(key) = self.clients.key_of(link) else { return };
        let Some(client) = self.clients.get(key) else { return };
        self.take_credits(key, client.unreceived.amount().saturating_sub(fds));
        let unread_ns = self.config.times.unread_ns;
        let Some(client) = self.clients.get_mut(key).filter(|client| client.unreceived.amount() > 0) else {
            return;
        };
        let at = since.after(unread_ns);
        if at > now {
            client.is_checked = false;
            self.timers.arm(Timer::Unread(key), &mut client.unread_at, at);
        } else if std::mem::take(&mut client.is_checked) {
            let ms = unread_ns / 1_000_000;
            self.drop_client(key, format!("it has not read the fds it asked for within {ms} ms"));
        }
    }

    /// A message with fds could not be sent: what the client was to have is not there.
    pub(crate) fn undelivered(&mut self, now: Time, link: LinkId, message: &ClientMessage) {
        let Some(key) = self.clients.key_of(link) else { return };
        match message {
            ClientMessage::ObjectCreated(created) => {
                self.take_credits(key, created.objects.len() as u64);
                created.objects.iter().for_each(|handle| self.close_undelivered(now, key, *handle));
            }
            ClientMessage::Imported(imported) => self.close_undelivered(now, key, imported.object),
            ClientMessage::Exported(_) => self.take_credits(key, 1),
            ClientMessage::PorterOpened(_) => {
                self.take_credits(key, 1);
                let refusal = Refusal::new(ErrorCode::Unavailable, "the porter's channel was never sent");
                // Which of the two it was the message does not say; another of the other is soon there.
                let both = self.clients.get(key).map(|client| [client.porter, client.doorman]);
                for porter in both.into_iter().flatten().flatten() {
                    self.kill_porter(porter, "its channel could not be sent", &refusal);
                }
            }
            ClientMessage::QueueOpened(opened) => {
                self.take_credits(key, FDS_OF_PAIR);
                self.pages_unsent(key, &[opened.page]);
                self.undo_queue(now, key, opened.queue);
            }
            ClientMessage::RingAttached(attached) => {
                self.take_credits(key, 1);
                // Nobody can schedule on it.
                if let Some(queue) = self.clients.get_mut(key).and_then(|c| c.queues.remove(attached.queue.0))
                {
                    self.end_queue(now, queue);
                }
            }
            ClientMessage::TimelineOpened(opened) => {
                self.take_credits(key, FDS_OF_PAIR);
                self.undo_timeline(now, key, opened.timeline, opened.page);
            }
            ClientMessage::TimelineObserved(observed) => {
                self.take_credits(key, FDS_OF_PAIR);
                self.pages_unsent(key, &[observed.page]);
            }
            ClientMessage::Shown(_) => {
                // It signals into pages that it can never be given again.
                self.drop_client(key, "the pages it is to signal in could not be sent".to_owned());
            }
            ClientMessage::Observed(observed) => {
                self.take_credits(key, FDS_OF_PAIR * observed.pages.len() as u64);
                self.pages_unsent(key, &observed.pages);
            }
            ClientMessage::Hello(_)
            | ClientMessage::CreateObject(_)
            | ClientMessage::Commit(_)
            | ClientMessage::CloseObject(_)
            | ClientMessage::Export(_)
            | ClientMessage::OpenPorter(_)
            | ClientMessage::Import(_)
            | ClientMessage::Observe(_)
            | ClientMessage::ListDevices(_)
            | ClientMessage::Describe(_)
            | ClientMessage::OpenQueue(_)
            | ClientMessage::CloseQueue(_)
            | ClientMessage::Submit(_)
            | ClientMessage::Cancel(_)
            | ClientMessage::Explain(_)
            | ClientMessage::Inspect(_)
            | ClientMessage::Monitor(_)
            | ClientMessage::Trace(_)
            | ClientMessage::Traced(_)
            | ClientMessage::Rewritten(_)
            | ClientMessage::AttachRing(_)
            | ClientMessage::CommitRing(_)
            | ClientMessage::Bind(_)
            | ClientMessage::AttachMemory(_)
            | ClientMessage::SetWindows(_)
            | ClientMessage::Unbind(_)
            | ClientMessage::CreateDomain(_)
            | ClientMessage::DrainDomain(_)
            | ClientMessage::CloseDomain(_)
            | ClientMessage::SetQuota(_)
            | ClientMessage::Disconnect(_)
            | ClientMessage::DomainCreated(_)
            | ClientMessage::CreateTimeline(_)
            | ClientMessage::CloseTimeline(_)
            | ClientMessage::ExportTimeline(_)
            | ClientMessage::ImportTimeline(_)
            | ClientMessage::ObserveTimeline(_)
            | ClientMessage::TakeShown(_)
            | ClientMessage::Promise(_)
            | ClientMessage::FailPoint(_)
            | ClientMessage::QueryPoint(_)
            | ClientMessage::TimelineExported(_)
            | ClientMessage::CauseIssued(_)
            | ClientMessage::PointState(_)
            | ClientMessage::Welcome(_)
            | ClientMessage::Done(_)
            | ClientMessage::Refused(_)
            | ClientMessage::Committed(_)
            | ClientMessage::Devices(_)
            | ClientMessage::Described(_)
            | ClientMessage::Accepted(_)
            | ClientMessage::Cancelling(_)
            | ClientMessage::Explained(_)
            | ClientMessage::Page(_)
            | ClientMessage::Event(_) => {
                let what = message.row().name;
                self.bug(format!("{what} carries no fds and could not be delivered"));
            }
        }
    }

    fn close_undelivered(&mut self, now: Time, key: ClientKey, handle: Handle) {
        // It may have been closed since: then there is nothing to undo.
        let _closed = self.close_handle(now, key, handle);
    }

    /// The next answer that names one of these pages brings its fds again.
    fn pages_unsent(&mut self, key: ClientKey, pages: &[PageId]) {
        let Some(client) = self.clients.get(key) else { return };
        for id in &client.pairs {
            let is_one = |page: PageId| pages.contains(&page);
            if let Some(pair) = self.pairs.get_mut(*id)
                && pair.numbers.is_some_and(|numbers| is_one(numbers.observe))
            {
                pair.sent = false;
            }
        }
    }

    /// A timeline that the client was never told of ends; the next one brings its primary page.
    fn undo_timeline(&mut self, now: Time, key: ClientKey, handle: TimelineHandle, page: PageId) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some(primary) = client.signals.primaries.iter_mut().find(|primary| primary.page == page) {
            primary.sent = false;
        }
        if let Some(held) = client.timelines.remove(handle.0) {
            self.drop_timeline_handle(now, key, held);
        }
    }

    /// A queue that the client was never told of closes. If it was told of others in the same page meanwhile,
    /// which it cannot see, it cannot be helped.
    fn undo_queue(&mut self, now: Time, key: ClientKey, handle: QueueHandle) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(queue) = client.queues.remove(handle.0) else { return };
        let pair_of = |queue| {
            let shown = self.queues.get(queue).and_then(|queue| queue.shown.of(Party::Client(key)));
            shown.map(|shown| shown.pair)
        };
        let pair = pair_of(queue);
        let others = client.queues.iter().filter(|other| pair.is_some() && pair_of(**other) == pair);
        if others.count() > 0 {
            self.drop_client(key, "the page of its queues could not be sent".to_owned());
        }
        self.end_queue(now, queue);
    }
}
