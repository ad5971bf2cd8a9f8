//! In the place of polkitd: it says what the test says, and remembers what it was asked.

use std::collections::HashMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use zbus::{OwnedVariant, Variant};

use crate::bus::Bus;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The caller's name on the bus.
    pub who: String,
    /// The action.
    pub action: String,
    /// Whether a person may be asked.
    pub interactive: bool,
}

/// What it says: that the caller may, or that it might if a person were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It may.
    Yes,
    /// It may not.
    No,
    /// A person would have to be asked.
    Ask,
}

/// On a bus, under polkit's name; ended on drop.
#[derive(Debug)]
pub struct Polkit {
    asked: Arc<Mutex<Vec<Question>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Authority {
    says: fn(&Question) -> Word,
    asked: Arc<Mutex<Vec<Question>>>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Authority {
    fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        _details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> (bool, bool, HashMap<String, String>) {
        assert_eq!(subject.0, "system-bus-name", "the caller is named as the bus names it");
        let who = match subject.1.get("name").map(|name| &**name) {
            Some(Variant::Str(name)) => name.to_string(),
            other => panic!("a name is no {other:?}"),
        };
        let question = Question { who, action, interactive: flags == 1 };
        let word = (self.says)(&question);
        self.asked.lock().expect("no test panics with it").push(question);
        (word == Word::Yes, word == Word::Ask, HashMap::new())
    }
}

impl Polkit {
    /// Starts it.
    ///
    /// # Panics
    /// If the bus does not take it.
    #[must_use]
    pub fn on(bus: &Bus, says: fn(&Question) -> Word) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let authority = Authority { says, asked: Arc::clone(&asked) };
        let (end, ended) = oneshot::channel();
        let (there, is_there) = mpsc::channel();
        let address = bus.address();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let _on_bus = zbus::connection::Builder::address(address.as_str())
                    .serve_at("/org/freedesktop/PolicyKit1/Authority", authority)
                    .name("org.freedesktop.PolicyKit1")
                    .build()
                    .await
                    .expect("the bus takes it");
                there.send(()).expect("somebody waits");
                drop(ended.await);
            });
        });
        is_there.recv().expect("it comes to the bus");
        Self { asked, end: Some(end), thread: Some(thread) }
    }

    /// What it was asked since this was asked last.
    ///
    /// # Panics
    /// If it has panicked.
    #[must_use]
    pub fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut *self.asked.lock().expect("it has not panicked"))
    }
}

impl Drop for Polkit {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
