//! What the keeper tells a driver on its command line.

use std::path::PathBuf;
use std::thread::available_parallelism;

/// A driver's command line, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Print the description and end (`--describe`).
    pub describe: bool,
    /// Directories the driver may open files under (`--root DIR`, any number).
    pub roots: Vec<PathBuf>,
    /// Executors to run, if not what the description says (`--executors N`).
    pub executors: Option<u16>,
    /// Do not confine the process (`--unconfined`), for debuggers and profilers.
    pub unconfined: bool,
}

/// A command line that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    /// No such option.
    #[error("unknown option {0}; drivers are started by vgemd, by hand only `--describe` is of use")]
    Unknown(String),
    /// The option's value is missing or wrong.
    #[error("{option} needs {wanted}, not {got:?}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it needs.
        wanted: &'static str,
        /// What it got.
        got: Option<String>,
    },
}

impl Options {
    /// How many executors to ask for: what the command line says, else `most`, or one per core if there are fewer.
    #[must_use]
    pub fn executors_or(&self, most: u16) -> u16 {
        let cores = available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX));
        self.executors.unwrap_or(most.min(cores))
    }

    /// Parses a command line without its program name.
    ///
    /// # Errors
    /// [`BadOptions`], naming the option.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, BadOptions> {
        let mut options = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--describe" => options.describe = true,
                "--unconfined" => options.unconfined = true,
                "--root" => match args.next() {
                    Some(dir) if dir.starts_with('/') => options.roots.push(PathBuf::from(dir)),
                    got => {
                        return Err(BadOptions::Value {
                            option: "--root",
                            wanted: "an absolute directory",
                            got,
                        });
                    }
                },
                "--executors" => {
                    let got = args.next();
                    match got.as_deref().map(str::parse::<u16>) {
                        Some(Ok(count)) if (1..=64).contains(&count) => options.executors = Some(count),
                        _ => {
                            let wanted = "a number from 1 to 64";
                            return Err(BadOptions::Value { option: "--executors", wanted, got });
                        }
                    }
                }
                _ => return Err(BadOptions::Unknown(arg)),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, BadOptions> {
        Options::parse(args.iter().map(|a| (*a).to_owned()))
    }

    #[test]
    fn every_option_is_understood() {
        let options = parse(&["--root", "/a", "--root", "/b", "--executors", "3", "--unconfined"]);
        let roots = vec![PathBuf::from("/a"), PathBuf::from("/b")];
        assert_eq!(options, Ok(Options { describe: false, roots, executors: Some(3), unconfined: true }));
    }

    #[test]
    fn a_relative_root_and_zero_executors_are_refused() {
        assert!(matches!(parse(&["--root", "a"]), Err(BadOptions::Value { option: "--root", .. })));
        assert!(matches!(parse(&["--executors", "0"]), Err(BadOptions::Value { option: "--executors", .. })));
        assert_eq!(parse(&["--what"]), Err(BadOptions::Unknown("--what".into())));
    }
}
