//! `vgemctl top` on a terminal, as a person has it.

use std::io::{Read as _, Write};
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use vgem::{ClientOptions, Deadline, Embedded};

use crate::support::{Held, SOON, broker, json, vgemctl};

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// A terminal with the live view on it.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// The settings before anything ran on it.
    before: String,
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

fn sized(cells: u16) -> NonZero<u16> {
    NonZero::new(cells).expect("a size")
}

fn parser() -> vt100::Parser {
    vt100::Parser::new(sized(ROWS), sized(COLUMNS), 0)
}

impl Terminal {
    fn start(broker: &Embedded, environment: &[(&str, &str)]) -> Self {
        let pair = native_pty_system().openpty(size(ROWS, COLUMNS)).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_vgemctl"));
        command.arg("--socket");
        command.arg(broker.socket());
        command.args(["top", "--interval", "100ms"]);
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let before = settings(pair.master.as_ref());
        let child = pair.slave.spawn_command(command).expect("it starts");
        let screen = Arc::new(Mutex::new(parser()));
        let mut out = pair.master.try_clone_reader().expect("what it writes");
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = out.read(&mut bytes) {
                seen.lock().expect("ours").process(&bytes[..len]);
            }
        });
        let keys = pair.master.take_writer().expect("a keyboard");
        Self { child, master: pair.master, keys, screen, before }
    }

    fn text(&self) -> String {
        self.screen.lock().expect("ours").screen().contents()
    }

    /// Waits until the screen shows something.
    fn shows(&mut self, what: &str, is_so: impl Fn(&vt100::Screen) -> bool) {
        let end = Deadline::after(SOON);
        while !is_so(self.screen.lock().expect("ours").screen()) {
            assert!(!end.passed(), "{what}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn shows_text(&mut self, text: &str) {
        self.shows(text, |screen| screen.contents().contains(text));
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("it listens");
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.lock().expect("ours").screen_mut().set_size(sized(rows), sized(columns));
        self.master.resize(size(rows, columns)).expect("ours");
    }

    /// Waits for its end, and for a terminal that is as it was.
    fn ends_well(mut self) {
        let end = Deadline::after(SOON);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ours") {
                break status;
            }
            assert!(!end.passed(), "it ends:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status:?}");
        self.shows("the screen that was there before", |screen| {
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        assert_eq!(settings(self.master.as_ref()), self.before);
    }
}

/// The settings of a terminal: echo, lines, what its keys do.
fn settings(master: &dyn MasterPty) -> String {
    let settings = master.get_termios().expect("a terminal");
    format!("{:?} {:?} {:?}", settings.input_flags, settings.output_flags, settings.local_flags)
}

#[test]
fn devices_and_clients_are_shown_and_q_gives_the_terminal_back() {
    let (broker, _client) = broker();
    let _named = broker.client_with(&ClientOptions::new().name("encoder")).expect("a client");
    let mut terminal = Terminal::start(&broker, &[]);
    for text in ["vgemd ", "DEVICE", "zip", "CLIENT", "encoder", "q quit"] {
        terminal.shows_text(text);
    }
    terminal.shows("the other screen", vt100::Screen::alternate_screen);
    assert_ne!(settings(terminal.master.as_ref()), terminal.before);
    terminal.press(b"q");
    terminal.ends_well();
}

#[test]
fn escape_and_control_c_end_it() {
    let (broker, _client) = broker();
    for keys in [b"\x1b", b"\x03"] {
        let mut terminal = Terminal::start(&broker, &[]);
        terminal.shows_text("q quit");
        terminal.press(keys);
        terminal.ends_well();
    }
}

#[test]
fn sigterm_gives_the_terminal_back() {
    let (broker, _client) = broker();
    let mut terminal = Terminal::start(&broker, &[]);
    terminal.shows_text("q quit");
    let pid = terminal.child.process_id().expect("it lives").cast_signed();
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("ours");
    terminal.ends_well();
}

#[test]
fn the_end_of_the_broker_gives_the_terminal_back() {
    let (broker, client) = broker();
    let mut terminal = Terminal::start(&broker, &[]);
    terminal.shows_text("q quit");
    drop(client);
    drop(broker);
    terminal.ends_well();
}

#[test]
fn another_size_is_drawn_in_full_however_small() {
    let (broker, _client) = broker();
    let mut terminal = Terminal::start(&broker, &[]);
    terminal.shows_text("q quit");
    terminal.resize(40, 140);
    // The keys are on the last line, wherever that is.
    let is_last = |line: usize| {
        move |screen: &vt100::Screen| {
            screen.contents().lines().nth(line).is_some_and(|line| line.contains("q quit"))
        }
    };
    terminal.shows("the keys on line 40", is_last(39));
    terminal.resize(3, 8);
    terminal.resize(12, 60);
    terminal.shows("the keys on line 12", is_last(11));
    terminal.press(b"q");
    terminal.ends_well();
}

#[test]
fn keys_change_the_order_and_the_time() {
    let (broker, client) = broker();
    let named = |name| broker.client_with(&ClientOptions::new().name(name)).expect("a client");
    let (small, large) = (named("aaa"), named("zzz"));
    let _held = [small.create(4096).expect("memory"), large.create(1 << 20).expect("memory")];
    let mut terminal = Terminal::start(&broker, &[]);
    terminal.shows_text("by name, every 100 ms");
    let place = |screen: &vt100::Screen, name: &str| screen.contents().find(name);
    terminal.shows("by name", |screen| place(screen, "aaa") < place(screen, "zzz"));
    terminal.press(b"b");
    terminal.shows("by bytes", |screen| place(screen, "zzz") < place(screen, "aaa"));
    terminal.press(b"r+");
    terminal.shows_text("by bytes, reversed, every 200 ms");
    terminal.shows("the other way round", |screen| place(screen, "aaa") < place(screen, "zzz"));
    terminal.press(b"q");
    terminal.ends_well();
    drop(client);
}

#[test]
fn no_color_takes_the_colors_away() {
    let (broker, client) = broker();
    let frame = client.create(4096).expect("memory");
    let held = Held::new(&client, &frame, SOON);
    let is_colored = |screen: &vt100::Screen| {
        let cells = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| screen.cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default)
    };
    // What has waited for more than a second is told apart.
    let mut colored = Terminal::start(&broker, &[]);
    colored.shows("a color", is_colored);
    let mut plain = Terminal::start(&broker, &[("NO_COLOR", "1")]);
    plain.shows_text("q quit");
    plain.shows("a long wait", |screen| screen.contents().contains(" s "));
    assert!(!is_colored(plain.screen.lock().expect("ours").screen()), "{}", plain.text());
    for mut terminal in [colored, plain] {
        terminal.press(b"q");
        terminal.ends_well();
    }
    held.let_go();
}

#[test]
fn one_frame_is_text_for_scripts_and_numbers_for_programs() {
    let (broker, client) = broker();
    let out = vgemctl(&broker, &["top", "--once", "--interval", "100ms"]);
    let said = String::from_utf8(out.stdout).expect("text");
    assert!(out.status.success() && said.contains("DEVICE") && said.contains("zip"), "{said}");
    assert!(!said.contains('\x1b') && !said.contains("q quit"), "{said:?}");
    let numbers = json(&broker, &["top", "--once", "--interval", "100ms"]);
    let own = |one: &&serde_json::Value| one["client"] == client.number();
    assert!(numbers["clients"].as_array().expect("a list").iter().any(|one| own(&one)), "{numbers}");
    // Without a terminal there is nothing to draw on.
    assert_eq!(vgemctl(&broker, &["top"]).status.code(), Some(2));
    assert_eq!(vgemctl(&broker, &["top", "--once", "--interval", "1ms"]).status.code(), Some(2));
}
