//! The terminal while it is ours: given back when it is dropped, also when we panic.

use std::io;

use ratatui::{DefaultTerminal, Frame};

/// The terminal, in its other screen and without echo.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal. A panic gives it back before it says anything.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    /// Draws a frame, as large as the terminal is by now.
    pub(crate) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(frame).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use portable_pty::{CommandBuilder, PtySize, native_pty_system};

    use super::*;

    /// Says to a test that it is the program on the terminal.
    const INSIDE: &str = "VGEMCTL_TEST_SCREEN";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_anything() {
        if std::env::var_os(INSIDE).is_some() {
            let mut screen = Screen::open().expect("a terminal");
            screen.draw(|_| panic!("what went wrong")).expect("drawn");
        }
        let size = PtySize { rows: 24, cols: 200, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let before = format!("{:?}", pair.master.get_termios().map(|settings| settings.local_flags));
        let mut command = CommandBuilder::new(std::env::current_exe().expect("a program"));
        let this = "top::screen::tests::a_panic_gives_the_terminal_back_before_it_says_anything";
        command.args([this, "--exact", "--nocapture"]);
        command.env(INSIDE, "1");
        command.env("TERM", "xterm-256color");
        let mut child = pair.slave.spawn_command(command).expect("it starts");
        drop(pair.slave);
        let mut out = pair.master.try_clone_reader().expect("what it writes");
        let mut said = Vec::new();
        // The end of a terminal reads as an error.
        drop(out.read_to_end(&mut said));
        assert!(!child.wait().expect("ours").success());
        let said = String::from_utf8_lossy(&said);
        let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text:?} is not in {said:?}"));
        let (taken, given, spoken) = (place("\x1b[?1049h"), place("\x1b[?1049l"), place("what went wrong"));
        assert!(taken < given && given < spoken, "{said:?}");
        let after = format!("{:?}", pair.master.get_termios().map(|settings| settings.local_flags));
        assert_eq!(after, before);
    }
}
