//! A frame: the broker in two lines, its devices, its clients, and the keys.

use ratatui::Frame;
use ratatui::backend::TestBackend;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use ratatui::{Terminal, buffer::Buffer};

use crate::human;
use crate::top::view::{ClientRow, DeviceRow, View};

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    is_colored: bool,
}

impl Look {
    /// As the environment asks: without colors if NO_COLOR is there and not empty.
    pub(crate) fn of_environment() -> Self {
        Self { is_colored: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }

    /// What does not go as it should.
    fn alarm(self, is_so: bool) -> Style {
        match (is_so, self.is_colored) {
            (true, true) => Style::new().fg(Color::Red),
            (true, false) => Style::new().add_modifier(Modifier::BOLD),
            (false, _) => Style::new(),
        }
    }

    fn busy(self, percent: u64) -> Style {
        match (self.is_colored, percent) {
            (false, _) | (_, 0) => Style::new(),
            (true, 1..50) => Style::new().fg(Color::Green),
            (true, _) => Style::new().fg(Color::Yellow),
        }
    }
}

/// What is below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foot {
    pub(crate) interval_ms: u64,
    /// The first client that is shown.
    pub(crate) first: usize,
}

const DEVICES: [&str; 9] =
    ["DEVICE", "STATE", "PROCS", "BUSY", "QUEUED", "JOBS/S", "BYTES/S", "STAGED/S", "JOBS"];
const CLIENTS: [&str; 9] =
    ["CLIENT", "NAME", "PID", "DOMAIN", "BYTES", "JOBS", "WAITS", "OLDEST WAIT", "MSGS/S"];
/// Columns that are text and stand to the left.
const TEXTS: [&str; 5] = ["DEVICE", "STATE", "CLIENT", "NAME", "DOMAIN"];

/// Draws a frame.
pub(crate) fn frame(view: &View, foot: Foot, look: Look, frame: &mut Frame<'_>) {
    let height = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX);
    let [head, devices, _, clients, keys] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(height(view.devices.len() + 1)),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(Text::from(heading(view))), head);
    let rows = view.devices.iter().map(|device| device_row(device, look));
    frame.render_widget(table(&DEVICES, rows, look), devices);
    let first = foot.first.min(view.clients.len().saturating_sub(1));
    let rows = view.clients.iter().skip(first).map(|client| client_row(client, look));
    frame.render_widget(table(&CLIENTS, rows, look), clients);
    keys_line(view, foot, frame, keys);
}

fn keys_line(view: &View, foot: Foot, frame: &mut Frame<'_>, area: Rect) {
    let reversed = if view.is_reversed { ", reversed" } else { "" };
    let (order, every) = (view.order.word(), human::time(foot.interval_ms * 1_000_000));
    let said = format!(
        "by {order}{reversed}, every {every}   q quit  n name  b bytes  j jobs  w waits  d domain  r reverse  +/- time"
    );
    frame.render_widget(Paragraph::new(said).style(Style::new().add_modifier(Modifier::DIM)), area);
}

/// The broker as a whole.
fn heading(view: &View) -> Vec<Line<'static>> {
    let status = &view.status;
    let counters = &status.counters;
    let first = format!(
        "vgemd {}, process {}, up {}   {} clients, {} queues, {} driver processes",
        human::text(&status.version),
        status.pid,
        human::time(status.uptime_ns),
        status.clients,
        status.queues,
        status.instances,
    );
    let second = format!(
        "{} objects, {} ({} pinned)   {} jobs in flight, {}/s, {} failed, {} drivers lost",
        status.objects,
        human::bytes(status.object_bytes),
        human::bytes(status.pinned_bytes),
        status.jobs_in_flight,
        view.jobs_per_s,
        counters.jobs_failed,
        counters.instances_lost,
    );
    vec![Line::from(first), Line::from(second)]
}

fn table<'a, const N: usize>(
    titles: &[&'static str; N],
    rows: impl Iterator<Item = [Cell<'static>; N]>,
    look: Look,
) -> Table<'a> {
    let widths = titles.map(|title| match title {
        "DEVICE" | "NAME" => Constraint::Fill(1),
        "PROCS" | "WAITS" => Constraint::Length(5),
        "CLIENT" | "BUSY" | "QUEUED" | "MSGS/S" => Constraint::Length(6),
        "PID" => Constraint::Length(7),
        "JOBS" | "JOBS/S" => Constraint::Length(8),
        "STATE" | "OLDEST WAIT" => Constraint::Length(11),
        _ => Constraint::Length(10),
    });
    let head = titles.map(|title| Cell::from(aligned(title, title.to_owned())));
    Table::new(rows.map(Row::new), widths).header(Row::new(head).style(look.title())).column_spacing(1)
}

fn aligned(title: &str, text: String) -> Text<'static> {
    let side = if TEXTS.contains(&title) { Alignment::Left } else { Alignment::Right };
    Text::from(text).alignment(side)
}

fn cells<const N: usize>(
    titles: &[&str; N],
    texts: [String; N],
    style: impl Fn(&str) -> Style,
) -> [Cell<'static>; N] {
    let mut texts = texts.into_iter();
    titles.map(|title| Cell::from(aligned(title, texts.next().unwrap_or_default())).style(style(title)))
}

fn device_row(device: &DeviceRow, look: Look) -> [Cell<'static>; 9] {
    let texts = [
        human::text(&device.name),
        human::text(&device.state),
        device.processes.to_string(),
        format!("{} %", device.busy_percent),
        device.queued.to_string(),
        device.jobs_per_s.to_string(),
        human::bytes(device.bytes_per_s),
        human::bytes(device.staged_per_s),
        device.jobs.to_string(),
    ];
    let is_bad = !matches!(device.state.as_str(), "ready" | "idle" | "starting");
    cells(&DEVICES, texts, |title| match title {
        "STATE" => look.alarm(is_bad),
        "BUSY" => look.busy(device.busy_percent),
        _ => Style::new(),
    })
}

fn client_row(client: &ClientRow, look: Look) -> [Cell<'static>; 9] {
    let wait = if client.waits == 0 { String::new() } else { human::time(client.oldest_wait_ns) };
    let texts = [
        client.client.to_string(),
        human::text(&client.name),
        client.pid.to_string(),
        human::text(&client.domain),
        human::bytes(client.bytes),
        client.jobs.to_string(),
        client.waits.to_string(),
        wait,
        client.messages_per_s.to_string(),
    ];
    let is_long = client.waits > 0 && client.oldest_wait_ns >= 1_000_000_000;
    cells(&CLIENTS, texts, |title| match title {
        "OLDEST WAIT" => look.alarm(is_long),
        _ => Style::new(),
    })
}

/// A frame of this size as text, without the keys and without empty lines at its end.
pub(crate) fn text(view: &View, (width, height): (u16, u16)) -> Vec<String> {
    // All clients, whatever the height.
    let needed = u16::try_from(view.devices.len() + view.clients.len() + 7).unwrap_or(u16::MAX);
    let foot = Foot { interval_ms: view.over_ns / 1_000_000, first: 0 };
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height.max(needed)));
    let Ok(_) = terminal.draw(|place| frame(view, foot, Look { is_colored: false }, place));
    let mut lines = lines_of(terminal.backend().buffer());
    lines.pop();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn lines_of(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let cell = |x, y| buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
    let line = |y| (0..area.width).map(|x| cell(x, y)).collect::<String>().trim_end().to_owned();
    (0..area.height).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::view::{Order, tests};

    #[test]
    fn a_frame_shows_the_broker_its_devices_and_its_clients() {
        insta::assert_snapshot!(text(&tests::view(Order::Bytes, false), (100, 10)).join("\n"), @r"
        vgemd 0.1.0, process 77, up 0 ns   0 clients, 0 queues, 0 driver processes
        0 objects, 0 B (0 B pinned)   0 jobs in flight, 300/s, 0 failed, 0 drivers lost

        DEVICE                       STATE       PROCS   BUSY QUEUED   JOBS/S    BYTES/S   STAGED/S     JOBS
        zip                          ready           1   30 %      3      300    300 MiB        0 B      700
        copy                         ready           0    0 %      0        0        0 B        0 B        0

        CLIENT NAME                              PID DOMAIN          BYTES     JOBS WAITS OLDEST WAIT MSGS/S
        1      encoder\u{1b}                    4711 stage           5 MiB        2     0               3000
        2      camera                           4711 stage           1 MiB        2     1       2.9 s   3000
        ");
    }

    #[test]
    fn a_frame_fits_any_size() {
        let view = tests::view(Order::Name, false);
        for size in [(0, 0), (1, 1), (3, 2), (10, 1), (20, 5), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("a place");
            let foot = Foot { interval_ms: 1_000, first: 5 };
            terminal.draw(|place| frame(&view, foot, Look { is_colored: true }, place)).expect("drawn");
        }
    }
}
