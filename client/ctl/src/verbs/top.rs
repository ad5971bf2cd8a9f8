//! `vgemctl top`: what goes on, looked at again and again.

use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use vgem::{Client, Deadline, Error};

use crate::cli::{Common, Format, Top};
use crate::exit::Usage;
use crate::print;
use crate::reach::{Otherwise, reach};
use crate::signals::interrupted;
use crate::top::draw::{self, Look as Colors};
use crate::top::screen::Screen;
use crate::top::view::{Order, Sight, View};

/// How long a key is waited for before anything else is looked at.
const SLICE: Duration = Duration::from_millis(50);
/// Shortest and longest time between two looks, milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// The size of a frame that goes to no terminal.
const SIZE: (u16, u16) = (100, 30);

/// What a person has chosen.
#[derive(Debug)]
struct Choice {
    order: Order,
    is_reversed: bool,
    interval_ms: u64,
    /// The first client that is shown.
    first: usize,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Redraw,
    End,
}

pub(crate) fn run(common: &Common, asked: &Top) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    let interval_ms = u64::try_from(asked.interval.as_millis()).unwrap_or(u64::MAX);
    if !INTERVAL_MS.contains(&interval_ms) {
        return Err(Usage("--interval is from 100ms to 1min".to_owned()).into());
    }
    let choice = Choice { order: asked.sort, is_reversed: asked.reverse, interval_ms, first: 0 };
    if asked.once || common.format != Format::Table {
        return once(common, client, &choice);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Usage("standard output is no terminal; --once prints one frame".to_owned()).into());
    }
    match live(client, choice) {
        Err(Error::BrokerLost { .. }) => {
            print::note("the broker has ended");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Prints one frame: what happened between two looks.
fn once(common: &Common, client: &Client, choice: &Choice) -> anyhow::Result<()> {
    let before = Sight::of(client)?;
    std::thread::sleep(Duration::from_millis(choice.interval_ms));
    let view = view(&before, &Sight::of(client)?, choice);
    print::either(common.format, &view, |view| {
        let size = ratatui::crossterm::terminal::size().ok().filter(|_| std::io::stdout().is_terminal());
        draw::text(view, size.unwrap_or(SIZE))
    })
}

fn view(before: &Sight, now: &Sight, choice: &Choice) -> View {
    View::between(before, now, choice.order, choice.is_reversed)
}

/// Draws until somebody asks to end.
fn live(client: &Client, mut choice: Choice) -> vgem::Result<()> {
    let interrupted = interrupted().map_err(|error| not_possible("watching for signals", &error))?;
    let colors = Colors::of_environment();
    let (mut before, mut now) = (Sight::of(client)?, Sight::of(client)?);
    let mut screen = Screen::open().map_err(|error| not_possible("the terminal", &error))?;
    let mut next = Deadline::after(Duration::from_millis(choice.interval_ms));
    let mut is_old = true;
    while !interrupted.load(Ordering::Acquire) {
        if next.passed() {
            next = Deadline::after(Duration::from_millis(choice.interval_ms));
            before = std::mem::replace(&mut now, Sight::of(client)?);
            is_old = true;
        }
        if std::mem::take(&mut is_old) {
            let view = view(&before, &now, &choice);
            let foot = draw::Foot { interval_ms: choice.interval_ms, first: choice.first };
            screen
                .draw(|frame| draw::frame(&view, foot, colors, frame))
                .map_err(|error| not_possible("the terminal", &error))?;
        }
        match pressed(&mut choice).map_err(|error| not_possible("the terminal", &error))? {
            Asked::Nothing => {}
            Asked::Redraw => is_old = true,
            Asked::End => break,
        }
    }
    Ok(())
}

fn not_possible(what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::Protocol(format!("{what}: {error}"))
}

/// Waits a moment for a key, or another size.
fn pressed(choice: &mut Choice) -> std::io::Result<Asked> {
    if !event::poll(SLICE)? {
        return Ok(Asked::Nothing);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => choice.take(key),
        Event::Resize(..) => Asked::Redraw,
        _ => Asked::Nothing,
    })
}

impl Choice {
    fn take(&mut self, key: KeyEvent) -> Asked {
        let order = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Asked::End,
            KeyCode::Char('q') | KeyCode::Esc => return Asked::End,
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                return Asked::Redraw;
            }
            KeyCode::Char('+') => return self.wait_for(self.interval_ms.saturating_mul(2)),
            KeyCode::Char('-') => return self.wait_for(self.interval_ms / 2),
            KeyCode::Down => return self.begin_with(self.first.saturating_add(1)),
            KeyCode::Up => return self.begin_with(self.first.saturating_sub(1)),
            KeyCode::Home => return self.begin_with(0),
            KeyCode::Char(letter) => Order::of_key(letter),
            _ => None,
        };
        let Some(order) = order else { return Asked::Nothing };
        self.order = order;
        self.begin_with(0)
    }

    fn wait_for(&mut self, ms: u64) -> Asked {
        self.interval_ms = ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        Asked::Redraw
    }

    fn begin_with(&mut self, first: usize) -> Asked {
        self.first = first;
        Asked::Redraw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice() -> Choice {
        Choice { order: Order::Name, is_reversed: false, interval_ms: 1_000, first: 3 }
    }

    #[test]
    fn q_escape_and_control_c_end_it_and_c_alone_does_not() {
        let key = |code, modifiers| choice().take(KeyEvent::new(code, modifiers));
        let plain = KeyModifiers::NONE;
        assert_eq!(key(KeyCode::Char('q'), plain), Asked::End);
        assert_eq!(key(KeyCode::Esc, plain), Asked::End);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Asked::End);
        assert_eq!(key(KeyCode::Char('c'), plain), Asked::Nothing);
    }

    #[test]
    fn keys_choose_the_order_and_the_time_between_looks_within_bounds() {
        let mut choice = choice();
        choice.take(KeyCode::Char('b').into());
        choice.take(KeyCode::Char('r').into());
        assert_eq!((choice.order, choice.is_reversed, choice.first), (Order::Bytes, true, 0));
        for _ in 0..20 {
            choice.take(KeyCode::Char('-').into());
        }
        assert_eq!(choice.interval_ms, 100);
        for _ in 0..20 {
            choice.take(KeyCode::Char('+').into());
        }
        assert_eq!(choice.interval_ms, 60_000);
    }
}
