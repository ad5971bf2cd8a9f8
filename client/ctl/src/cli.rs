//! The command line: verbs, their arguments, and the options all of them take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;
use crate::top::view::Order;
use crate::waiting::asked::{Asked, asked, cause};

/// Look at a broker, drive its devices, examine the machine.
#[derive(Debug, Parser)]
#[command(name = "vgemctl", version, after_help = exit::TABLE)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// How to print: for people, one JSON document, one per line, or (why) a picture
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// The broker's socket, instead of VGEM_SOCKET or the usual places
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "embedded")]
    pub(crate) socket: Option<PathBuf>,
    /// The broker of this user: the one below XDG_RUNTIME_DIR, and no other
    #[arg(long, global = true, conflicts_with_all = ["socket", "embedded", "system"])]
    pub(crate) user: bool,
    /// The broker of this machine: the one below /run, and no other
    #[arg(long, global = true, conflicts_with_all = ["socket", "embedded"])]
    pub(crate) system: bool,
    /// Start a private broker for this one command
    #[arg(long, global = true)]
    pub(crate) embedded: bool,
    /// With a private broker: keep blk to files below this folder; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Vec<PathBuf>,
}

impl Common {
    /// Whether the command line says which broker it is to be.
    pub(crate) fn names_a_broker(&self) -> bool {
        self.socket.is_some() || self.user || self.system || self.embedded
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs that read lines: one JSON document for each thing of a list, and for each event.
    Jsonl,
    /// For graphviz (why).
    Dot,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The broker as a whole
    #[command(after_help = "Example:\n  vgemctl status --format json")]
    Status,
    /// What it has: devices, objects, clients, queues, timelines, or what is owed
    List(List),
    /// One of them in full
    Show(Show),
    /// Run one operation of a device on files
    Run(Run),
    /// What is behind a cause
    Explain(Explain),
    /// Who holds an object, also those who never spoke to the broker
    Who(Who),
    /// Why something waits, and for which process
    ///
    /// Prints the shortest chain from the waiter to the process that has to act, with ages, and what that process does.
    /// Of what has ended it says how, and why. Who administers or observes sees everybody, others their own domain.
    Why(Why),
    /// What happens, one line per event, until Ctrl-C
    ///
    /// Who administers or observes is told of everybody, others of their own domain. Ends with Ctrl-C, or with the broker.
    Monitor(Monitor),
    /// What goes on right now: devices and clients, looked at again and again
    ///
    /// Keys: q, Esc or Ctrl-C end it; n, b, j, w and d order by name, bytes, jobs, waits and domain, r the other way
    /// round; + and - look less or more often; up, down and Home go through the clients. NO_COLOR takes the colors away.
    Top(Top),
    /// Record what every job does, as a file for Perfetto or Chrome
    ///
    /// A track per device and per client: when each job was accepted, until when it waited for others, when its engine began
    /// and when it ended; arrows for hand-offs; counters for jobs queued and running and for bytes. Who administers or
    /// observes sees everybody, others their own domain. Ends after the time that was asked for, with Ctrl-C, or with the broker. Entries of user
    /// queues pass the broker by and are not in it.
    Trace(Trace),
    /// Users and containers that share quotas: make one for a container, look at them, end them
    Domain(Domain),
    /// What a domain holds and may hold; with KIND=LIMIT, that from now on
    ///
    /// A user's own domain has the user's number as its name. It holds until the configuration is read again; of a
    /// domain that was made, until that ends. For root, or
    /// whom the daemon serves alone.
    Quota(Quota),
    /// Let nobody new into a domain; it ends with its last client
    ///
    /// For root, or whom the daemon serves alone; the same as `domain drain`.
    Drain(Drain),
    /// Disconnect a client; for root, or whom the daemon serves alone
    Disconnect(Disconnect),
    /// Everything that there is to see, as one JSON document
    ///
    /// Who administers or observes sees everybody, others their own domain. Parts are not looked at in one moment.
    #[command(after_help = "Example:\n  vgemctl dump\n  vgemctl dump --format jsonl > state.json")]
    Dump,
    /// Measure this machine with vgem-bench, if that is installed
    Bench(Bench),
    /// Print what makes a shell complete command lines of vgemctl
    Completion(Completion),
    /// Write the manual's pages
    #[command(hide = true)]
    Man(Man),
    /// Examine this machine, and the broker if one runs
    #[command(after_help = "Example:\n  vgemctl doctor")]
    Doctor,
}

/// `list`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl list objects\n  vgemctl list obligations --format json")]
pub(crate) struct List {
    /// Which of them
    #[arg(value_enum)]
    pub(crate) what: Kind,
}

/// Kinds of things a broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Devices and their driver processes.
    Devices,
    /// Memory objects.
    Objects,
    /// Connected clients.
    Clients,
    /// Open queues.
    Queues,
    /// Timelines that clients signal.
    Timelines,
    /// Points that somebody owes, and what they wait for.
    Obligations,
}

/// `show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl show device zip\n  vgemctl show queue 3.7")]
pub(crate) struct Show {
    #[command(subcommand)]
    pub(crate) what: Shown,
}

/// What `show` shows.
#[derive(Debug, Subcommand)]
pub(crate) enum Shown {
    /// A device: its operations, operands and parameters, and its processes
    Device {
        /// Its name
        name: String,
    },
    /// A memory object
    Object {
        /// Its key, as `list objects` prints it, or the beginning of it; or its name
        key: String,
    },
    /// A client
    Client {
        /// Its number, as `list clients` prints it, or the beginning of it; or its name
        client: String,
    },
    /// A queue: what it owes, and what failed last
    Queue {
        /// Its key, as `list queues` prints it, or the beginning of it
        key: String,
    },
    /// A timeline that a client signals: what is owed on it
    Timeline {
        /// Its key, as `list timelines` prints it, or the beginning of it; or its name
        key: String,
    },
}

/// `run`.
///
/// Files are given in the order input, output; what the operation does not take is left out. `-` is standard input
/// or output. An operation that makes no data prints its digest or its number to OUT.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl run zip compress --param format=gzip notes.txt notes.txt.gz")]
pub(crate) struct Run {
    /// The device, as `list devices` prints it
    pub(crate) device: String,
    /// The operation, as `show device NAME` prints it
    pub(crate) op: String,
    /// Input and output files; `-` is standard input or output
    #[arg(value_name = "FILE", num_args = 0..=2)]
    pub(crate) files: Vec<String>,
    /// A parameter; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) param: Vec<(String, String)>,
    /// A further operand, from a file; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    pub(crate) operand: Vec<(String, String)>,
    /// Bytes of the output, where the operation cannot tell; otherwise a first guess
    #[arg(long, value_name = "BYTES")]
    pub(crate) output_size: Option<u64>,
    /// Longest run time, seconds; the operation's own if not given
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

/// `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl explain cause:3.7")]
pub(crate) struct Explain {
    /// The cause, as an error prints it: `cause:3.7`, or `3.7`, or its number
    #[arg(value_parser = cause)]
    pub(crate) cause: vgem::CauseId,
}

/// `who`.
///
/// Lists clients with a handle, devices, and every fd and mapping of the object's memory that this user may see in /proc.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl who frame\n  vgemctl who object:3.1 --format json")]
pub(crate) struct Who {
    /// The object: its key as `list objects` prints it, its name, or the beginning of its key
    pub(crate) object: String,
}

/// `why`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  vgemctl why encoder\n  vgemctl why 3.7:5\n  vgemctl why 3.7 --format dot | dot -Tsvg > why.svg"
)]
pub(crate) struct Why {
    /// What waits
    ///
    /// 3.7:5     a job of a queue, or a point of a timeline; c3.7:5 if a client signals it
    /// 3.7       a queue or a timeline: its newest point that has not ended
    /// 4         a client
    /// encoder   a client by its name
    /// frames:5  a point of a timeline by its name; frames its newest
    #[arg(value_name = "FENCE|JOB|CLIENT", value_parser = asked, verbatim_doc_comment)]
    pub(crate) what: Asked,
}

/// `monitor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  vgemctl monitor\n  vgemctl monitor --count 10\n  vgemctl monitor --late --format jsonl"
)]
pub(crate) struct Monitor {
    /// Only what was owed and came late: jobs that took too long, promises that were broken or never made
    #[arg(long)]
    pub(crate) late: bool,
    /// End after so many events
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
}

/// `top`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  vgemctl top --once --interval 200ms\n  vgemctl top --sort bytes --once --format json"
)]
pub(crate) struct Top {
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "1s")]
    pub(crate) interval: Duration,
    /// What devices and clients are ordered by
    #[arg(long, value_enum, default_value_t = Order::Name)]
    pub(crate) sort: Order,
    /// The other way round
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Print one frame as text, of what happens in one interval, and end; with --format json the numbers
    #[arg(long)]
    pub(crate) once: bool,
}

/// `trace`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl trace --output t.json --for 5s")]
pub(crate) struct Trace {
    /// Where to write it; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: String,
    /// For how long, as 5s, 500ms or 2min; not given: until Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    pub(crate) duration: Option<Duration>,
    /// End after so many jobs; each takes a few hundred bytes until it is written
    #[arg(long, value_name = "JOBS", default_value_t = 1_000_000)]
    pub(crate) most: usize,
}

/// `domain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  vgemctl domain list\n  vgemctl domain create box --quota bytes=64MiB --devices copy,zip/compress --run -- vgemctl list devices\n  vgemctl domain create chest --listen ./chest.sock --run -- vgemctl status"
)]
pub(crate) struct Domain {
    #[command(subcommand)]
    pub(crate) what: Domains,
}

/// What to do with domains.
#[derive(Debug, Subcommand)]
pub(crate) enum Domains {
    /// Make one, with a socket of its own
    ///
    /// Whoever is given the folder of the socket is in the domain, whatever user it is: bind-mount it into a container. With
    /// --run the command finds the socket in VGEM_SOCKET and its folder in VGEM_DOMAIN_DIR, and the domain ends with it;
    /// otherwise the domain stays until it is closed.
    ///
    /// With --listen the socket is bound here, at any path, by vgemctl itself, and whoever can connect there is in the
    /// domain. It ends with vgemctl, which ends with the command, or without --run when it is interrupted or the domain
    /// is closed.
    Create(Create),
    /// All that one may see
    List,
    /// One of them, with what it holds and may hold
    Show {
        /// Its name, or its number
        name: String,
    },
    /// Let nobody new in; it ends with its last client
    Drain {
        /// Its name, or its number
        name: String,
    },
    /// End it, and disconnect its clients
    Close {
        /// Its name, or its number
        name: String,
    },
}

/// `domain create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: 1 to 32 of a to z, 0 to 9 and -
    pub(crate) name: String,
    /// What it may hold; may be repeated
    #[arg(long, value_name = "KIND=LIMIT", value_parser = limit, value_delimiter = ',')]
    pub(crate) quota: Vec<(vgem::QuotaKind, u64)>,
    /// Devices, or operations of them, that it may use, and no others; not given: those that everybody may
    #[arg(long, value_name = "DEVICE[/OPERATION]", value_delimiter = ',')]
    pub(crate) devices: Vec<String>,
    /// Bind its socket here; what answers nobody is replaced
    #[arg(long, value_name = "PATH")]
    pub(crate) listen: Option<PathBuf>,
    /// Who may connect to the socket at PATH, as chmod has it
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "600", requires = "listen")]
    pub(crate) mode: u32,
    /// Run a command in it
    #[arg(long, requires = "command")]
    pub(crate) run: bool,
    /// The command
    #[arg(last = true, value_name = "COMMAND", requires = "run")]
    pub(crate) command: Vec<String>,
}

/// `quota`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl quota stage\n  vgemctl quota stage bytes=1GiB objects=1000")]
pub(crate) struct Quota {
    /// The domain: its name, or its number
    pub(crate) domain: String,
    /// bytes, objects, handles, queues, jobs, connections, exports, porters, monitors, pages, timelines, rings,
    /// requests_per_s or pinned, and the most of it; KiB, MiB, GiB and TiB are understood
    #[arg(value_name = "KIND=LIMIT", value_parser = limit)]
    pub(crate) quotas: Vec<(vgem::QuotaKind, u64)>,
}

/// `drain`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl drain stage")]
pub(crate) struct Drain {
    /// The domain: its name, or its number
    pub(crate) domain: String,
}

/// `disconnect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl disconnect 7\n  vgemctl disconnect encoder")]
pub(crate) struct Disconnect {
    /// Its number, as `list clients` prints it, or its name if no other has that
    pub(crate) client: String,
}

/// `bench`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  vgemctl bench --list")]
pub(crate) struct Bench {
    /// What vgem-bench is to do: its own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<OsString>,
}

/// `completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  vgemctl completion bash\n  vgemctl completion zsh > _vgemctl\n  vgemctl completion fish > vgemctl.fish"
)]
pub(crate) struct Completion {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder
    pub(crate) folder: PathBuf,
}

/// A quota as KIND=LIMIT.
fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text}: three octal digits are wanted, as 600 or 666")),
    }
}

fn limit(text: &str) -> Result<(vgem::QuotaKind, u64), String> {
    let kinds = || vgem::QuotaKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let (name, number) = pair(text)?;
    let kind = vgem::QuotaKind::ALL.iter().find(|kind| kind.name() == name);
    let kind = kind.ok_or_else(|| format!("{name} is none of {}", kinds()))?;
    Ok((*kind, size(&number)?))
}

/// A number, of bytes perhaps.
fn size(text: &str) -> Result<u64, String> {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let number: u64 =
        digits.trim().parse().map_err(|_| format!("{text} is no number, as 4096 or 64MiB are"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than 16 EiB"))
}

/// A span of time with its unit.
fn span(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("min", 60_000), ("s", 1_000)];
    let unit = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, *ms)));
    let wrong = || format!("{text} is no time, as 5s, 500ms or 2min are");
    let (digits, ms) = unit.ok_or_else(wrong)?;
    let number: u32 = digits.trim().parse().map_err(|_| wrong())?;
    Ok(Duration::from_millis(u64::from(number) * ms))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        assert!((0..=5).all(|code| help.contains(&format!("\n  {code}  "))), "{help}");
    }

    #[test]
    fn every_verb_shows_an_example_of_itself() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.clone().render_long_help().to_string();
            let example = format!("Example:\n  vgemctl {}", verb.get_name());
            assert!(help.contains(&example), "{help}");
        }
    }

    #[test]
    fn a_quota_is_a_kind_and_a_number_with_a_unit() {
        use vgem::QuotaKind as Q;
        assert_eq!(limit("bytes=64MiB"), Ok((Q::Bytes, 64 << 20)));
        assert_eq!(limit("rings=3"), Ok((Q::Rings, 3)));
        for wrong in ["bytes", "bytes=x", "colors=1", "bytes=99999999TiB", "bytes=-1"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_of_a_file() {
        assert_eq!((mode("600"), mode("666")), (Ok(0o600), Ok(0o666)));
        assert!(["", "800", "1777", "rw"].iter().all(|wrong| mode(wrong).is_err()));
    }

    #[test]
    fn a_time_is_a_number_with_its_unit() {
        let ms = |text: &str| span(text).map(|span| span.as_millis());
        assert_eq!([ms("5s"), ms("500ms"), ms("2min")], [Ok(5_000), Ok(500), Ok(120_000)]);
        assert!(["5", "s", "-1s", "1h", "99999999999s"].iter().all(|wrong| span(wrong).is_err()));
    }

    #[test]
    fn a_pair_needs_a_name() {
        assert!(pair("=x").is_err() && pair("x").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    }
}
