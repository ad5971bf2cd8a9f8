//! Chromium without a window, driven over two pipes by its own protocol (CDP): JSON documents that end with a zero byte.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a page may take until something is so, milliseconds.
const PATIENCE_MS: u32 = 60_000;

/// The browser expects its pipes at 3 and 4; a shell puts them there.
const START: &str = r#"exec chromium "$@" 3<&0 4>&1 0</dev/null 1>&2"#;

/// A browser, until this goes.
pub(crate) struct Browser {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    last: u64,
    session: String,
    /// What the page complained of: exceptions, and what its policy forbids.
    complaints: Vec<String>,
    _profile: TempDir,
}

/// How wide and high, and whether it is dark.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) scheme: &'static str,
}

impl Browser {
    /// One with an empty page.
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut shell = Command::new("sh");
        shell.args(["-c", START, "chromium", "--headless", "--remote-debugging-pipe", "--no-first-run"]);
        // Confinement of its own it cannot make as root; pages here are ours. A container's /dev/shm may be small.
        shell.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]);
        shell.args(["--disable-background-networking", "--no-proxy-server"]);
        shell.arg(format!("--user-data-dir={}", profile.path().display()));
        shell.env("HOME", profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = shell.spawn().expect("a shell starts");
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("a pipe")));
        let (last, session, complaints) = (0, String::new(), Vec::new());
        let mut browser = Self { child, to, from, last, session, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Shows a page.
    pub(crate) fn open(&mut self, address: &str, view: View) {
        self.look(view);
        let opened = self.call("Page.navigate", &json!({"url": address}));
        assert!(opened.get("errorText").is_none(), "{opened}");
    }

    /// Changes the window.
    pub(crate) fn look(&mut self, view: View) {
        let View { width, height, scheme } = view;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let run = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let done = self.call("Runtime.evaluate", &run);
        assert!(done.get("exceptionDetails").is_none(), "{expression}: {done}");
        done["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn until(&mut self, expression: &str) {
        let wait = format!(
            "new Promise((done) => {{ const end = Date.now() + {PATIENCE_MS}; const so = () => {{ try {{ return {expression}; }} \
             catch {{ return false; }} }}; const look = () => so() ? done(true) : Date.now() > end ? done(false) : \
             setTimeout(look, 20); look(); }})"
        );
        let so = self.value(&wait);
        if so != Value::Bool(true) {
            let text = self.value("document.body.innerText");
            panic!("never so: {expression}\n{text}\n{:?}", self.complaints);
        }
    }

    /// The page as a PNG: what is in the window, or all of it.
    pub(crate) fn picture(&mut self, whole: bool) -> Vec<u8> {
        let shot = json!({"format": "png", "captureBeyondViewport": whole, "optimizeForSpeed": false});
        let shot = self.call("Page.captureScreenshot", &shot);
        STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64")
    }

    /// What the page complained of.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut call = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let mut text = call.to_string().into_bytes();
        text.push(0);
        self.to.as_mut().expect("it is open").write_all(&text).expect("the browser reads");
        loop {
            let said = self.read();
            if said["id"] == json!(self.last) {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].clone();
            }
            self.note(&said);
        }
    }

    fn read(&mut self) -> Value {
        let mut text = Vec::new();
        self.from.read_until(0, &mut text).expect("the browser answers");
        assert_eq!(text.pop(), Some(0), "chromium is needed: `cargo xtask test` says how to get it");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn note(&mut self, said: &Value) {
        match said["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(said["params"].to_string()),
            Some("Log.entryAdded") if said["params"]["entry"]["level"] == "error" => {
                self.complaints.push(said["params"]["entry"].to_string());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With its pipe closed it ends, and its helpers with it.
        drop(self.to.take());
        drop(self.child.wait());
    }
}
