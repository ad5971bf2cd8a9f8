//! Explanations: what is behind a cause. The broker keeps them; the library remembers the last ones it asked for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, Point, Time, TimelineKey};
use vgem_proto::message::client::Explained;

/// Explanations a client remembers.
const REMEMBERED: usize = 64;

/// Where a failure began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The cause that was asked for.
    pub cause: CauseId,
    /// What went wrong there.
    pub code: ErrorCode,
    /// When it happened, if known.
    pub at: Option<Time>,
    /// The device where it began, if one.
    pub device: Option<String>,
    /// The process at fault, if known.
    pub pid: Option<u32>,
    /// The timeline on which it began, if one.
    pub timeline: Option<TimelineKey>,
    /// The point of the job or the promise where it began, if one.
    pub point: Option<Point>,
    /// Whose job or promise that was, by the client's number.
    pub client: Option<u64>,
    /// What the job was to write, if it is known: an object's name, or its key.
    pub object: Option<String>,
    /// What happened, in words.
    pub text: String,
}

impl Explanation {
    pub(crate) fn from_wire(told: Explained) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let known = |bytes: &[u8]| (!bytes.is_empty()).then(|| text(bytes));
        Self {
            cause: told.cause,
            code: told.code,
            at: (told.at != Time(0)).then_some(told.at),
            device: known(&told.device),
            pid: (told.pid != 0).then_some(told.pid),
            timeline: (told.timeline != TimelineKey::default()).then_some(told.timeline),
            point: (told.point != Point(0)).then_some(told.point),
            client: (told.client != 0).then_some(told.client),
            object: known(&told.object),
            text: text(&told.text),
        }
    }

    /// A batch of this very client was refused: the refusal is the explanation.
    pub(crate) fn from_refusal(cause: CauseId, refusal: &Refusal) -> Self {
        Self::of_words(cause, refusal.code, refusal.to_string())
    }

    /// One of which nothing is known but words.
    pub(crate) fn of_words(cause: CauseId, code: ErrorCode, text: String) -> Self {
        Self {
            cause,
            code,
            at: None,
            device: None,
            pid: None,
            timeline: None,
            point: None,
            client: None,
            object: None,
            text,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.device {
            write!(f, "{device}: ")?;
        }
        match self.text.as_str() {
            "" => write!(f, "{}", self.code)?,
            text => f.write_str(text)?,
        }
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        Ok(())
    }
}

/// The last explanations, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<VecDeque<Arc<Explanation>>>);

impl Memory {
    pub(crate) fn find(&self, cause: CauseId) -> Option<Arc<Explanation>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|one| one.cause == cause).cloned()
    }

    pub(crate) fn keep(&self, explanation: Explanation) -> Arc<Explanation> {
        let explanation = Arc::new(explanation);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back(Arc::clone(&explanation));
        explanation
    }
}

/// The failures of a queue are kept eight deep; what fell out has no cause any more.
pub(crate) fn forgotten() -> Explanation {
    let text = "more than eight later jobs of its queue failed, so how it ended is not known any more";
    Explanation::of_words(CauseId::NONE, ErrorCode::Other(0), text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(number: u64) -> Explanation {
        let refusal = Refusal::new(ErrorCode::Denied, "why");
        Explanation::from_refusal(CauseId(number), &refusal)
    }

    #[test]
    fn the_oldest_explanation_is_forgotten_first() {
        let memory = Memory::default();
        for number in 0..=REMEMBERED as u64 {
            memory.keep(said(number));
        }
        assert!(memory.find(CauseId(0)).is_none() && memory.find(CauseId(1)).is_some());
    }

    #[test]
    fn what_the_broker_does_not_say_is_not_known() {
        let (timeline, point) = (TimelineKey { index: 1, generation: 4 }, Point(7));
        let told = Explained {
            cause: CauseId(1),
            at: Time(0),
            point,
            pid: 0,
            code: ErrorCode::Io,
            timeline,
            client: 4,
            device: Vec::new(),
            text: b"why".to_vec(),
            object: b"frame".to_vec(),
        };
        let full = Explanation::from_wire(told.clone());
        assert_eq!(
            (full.timeline, full.client, full.object.as_deref()),
            (Some(timeline), Some(4), Some("frame"))
        );
        let bare = Explained { timeline: TimelineKey::default(), client: 0, object: Vec::new(), ..told };
        let bare = Explanation::from_wire(bare);
        assert_eq!((bare.timeline, bare.client, bare.object, bare.device), (None, None, None, None));
    }

    #[test]
    fn an_explanation_names_device_words_and_process() {
        let told = Explanation { device: Some("zip".into()), pid: Some(7), text: "cut".into(), ..said(1) };
        assert_eq!(told.to_string(), "zip: cut (pid 7)");
    }
}
