//! Reading configuration files, with all that is wrong in them.
//!
//! A file is taken apart into its single settings, and each is read as if it stood alone: so one mistake hides no other,
//! and each has its line and its key. What is wrong between settings ([`super::policy`]) finds its line here too.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Config;
use crate::exit::{Exit, Failure};

/// Something that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 is the file as a whole.
    pub line: usize,
    /// The key, with those it is in; empty is none.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// All that is wrong; one a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mistakes(pub Vec<Mistake>);

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        let lines: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
        Self::new(Exit::Config, lines.join("\n"))
    }
}

/// What the files say, and where each setting stands.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Everything that could be read.
    pub config: Config,
    /// What could not.
    pub mistakes: Mistakes,
    places: BTreeMap<String, (PathBuf, usize)>,
}

impl Files {
    /// Reads `file` and what is in `file.d`. A missing file is an empty one unless it `must_exist`.
    #[must_use]
    pub fn read(file: &Path, must_exist: bool) -> Self {
        let mut files = Self::default();
        match std::fs::read_to_string(file) {
            Ok(text) => files.add(file, &text),
            Err(e) if e.kind() == ErrorKind::NotFound && !must_exist => {}
            Err(e) => files.unreadable(file, &e),
        }
        match drop_ins(file) {
            Ok(found) => {
                for drop_in in found {
                    match std::fs::read_to_string(&drop_in) {
                        Ok(text) => files.add(&drop_in, &text),
                        Err(e) => files.unreadable(&drop_in, &e),
                    }
                }
            }
            Err((dir, e)) => files.unreadable(&dir, &e),
        }
        files
    }

    /// Adds what one file says to what is said so far.
    pub(super) fn add(&mut self, file: &Path, text: &str) {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(e) => {
                let line = e.span().map_or(0, |at| line(at.start));
                let what = e.message().to_owned();
                self.mistakes.0.push(Mistake { file: file.to_owned(), line, key: String::new(), what });
                return;
            }
        };
        let mut settings = Vec::new();
        take_apart(document.get_ref(), &mut Vec::new(), &mut settings);
        // In the order of the file.
        settings.sort_by_key(|setting| setting.at);
        for setting in settings {
            let (key, line) = (setting.path.join("."), line(setting.at));
            match setting.read(text) {
                Ok(config) => self.config.overlay(config),
                Err(what) => {
                    self.mistakes.0.push(Mistake { file: file.to_owned(), line, key: key.clone(), what });
                }
            }
            self.places.insert(key, (file.to_owned(), line));
        }
    }

    /// A mistake at a key that was read.
    #[must_use]
    pub fn mistake(&self, key: &str, what: impl Into<String>) -> Mistake {
        let (file, line) = self.places.get(key).cloned().unwrap_or_default();
        Mistake { file, line, key: key.to_owned(), what: what.into() }
    }

    fn unreadable(&mut self, file: &Path, e: &std::io::Error) {
        let (line, key) = (0, String::new());
        self.mistakes.0.push(Mistake { file: file.to_owned(), line, key, what: e.to_string() });
    }
}

/// One setting of a file: a key with those it is in, and its value; or a table with nothing in it.
struct Setting {
    path: Vec<String>,
    /// Where the key stands in the text, bytes.
    at: usize,
    /// Where the value stands; none is an empty table.
    value: Option<Range<usize>>,
}

impl Setting {
    /// The configuration that says only this.
    fn read(&self, text: &str) -> Result<Config, String> {
        let quoted: Vec<String> = self.path.iter().map(|key| format!("{key:?}")).collect();
        let path = quoted.join(".");
        let alone = match &self.value {
            Some(range) => format!("{path} = {}", text.get(range.clone()).unwrap_or_default()),
            None => format!("[{path}]"),
        };
        let config: Config = toml::from_str(&alone).map_err(|e| e.message().to_owned())?;
        super::check(&config).map_or(Ok(config), Err)
    }
}

fn take_apart(table: &DeTable<'_>, path: &mut Vec<String>, settings: &mut Vec<Setting>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => take_apart(inner, path, settings),
            DeValue::Table(_) => {
                settings.push(Setting { path: path.clone(), at: key.span().start, value: None });
            }
            _ => {
                let value = Some(value.span());
                settings.push(Setting { path: path.clone(), at: key.span().start, value });
            }
        }
        path.pop();
    }
}

/// The drop-ins of a file, in the order of their names.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, (PathBuf, std::io::Error)> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err((dir, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| (dir.clone(), e))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::{Device, Quota};
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let mut files = Files::default();
        files.add(Path::new("v.toml"), text);
        files.mistakes.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let said = said("[quota]\nobjects = 1\nbytes = 5\n");
        assert!(said[0].starts_with("v.toml: line 3: quota.bytes: unknown field `bytes`"), "{said:?}");
    }

    #[test]
    fn one_mistake_hides_no_other() {
        let said = said(
            "[times]\nunread_ms = 9\nimport_ms = \"x\"\n[domains.a]\nuids = [\n  1,\n  -2,\n]\ncolor = 3\n[what]\n",
        );
        let heads: Vec<&str> = said.iter().filter_map(|line| line.rsplit_once(": ").map(|s| s.0)).collect();
        let begins = |n: usize, with: &str| assert!(said[n].starts_with(with), "{said:?}");
        begins(0, "v.toml: line 2: times.unread_ms: must be from 10 to 60000");
        begins(1, "v.toml: line 3: times.import_ms: invalid type");
        begins(2, "v.toml: line 5: domains.a.uids: ");
        begins(3, "v.toml: line 9: domains.a.color: unknown field");
        begins(4, "v.toml: line 10: what: unknown field");
        assert_eq!(heads.len(), 5);
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        let said = said("[quota]\nobjects == 1\n");
        assert!(said.len() == 1 && said[0].starts_with("v.toml: line 2: "), "{said:?}");
    }

    #[test]
    fn drop_ins_replace_single_keys_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("vgemd.toml");
        let drop_ins = dir.path().join("vgemd.toml.d");
        std::fs::create_dir(&drop_ins).expect("a directory");
        let put = |path: &Path, text: &str| std::fs::write(path, text).expect("a file");
        put(&file, "[quota]\nobjects = 1\njobs = 1\n[devices.zip]\nexecutors = 1\n");
        put(&drop_ins.join("20.toml"), "[quota]\nobjects = 3\n[domains.a]\nuids = [4]\n");
        put(&drop_ins.join("10.toml"), "[quota]\nobjects = 2\nqueues = 2\n[devices.zip]\nroots = [\"/\"]\n");
        put(&drop_ins.join("30.off"), "nonsense");
        let files = Files::read(&file, true);
        let quota = Quota { objects: Some(3), jobs: Some(1), queues: Some(2), ..Quota::default() };
        let zip = Device { executors: Some(1), roots: Some(vec!["/".into()]) };
        assert_eq!((files.config.quota, files.config.devices["zip"].clone()), (quota, zip));
        let at = files.mistake("domains.a.uids", "four");
        assert_eq!(
            at.to_string(),
            format!("{}: line 4: domains.a.uids: four", drop_ins.join("20.toml").display())
        );
    }

    #[test]
    fn a_missing_file_is_a_mistake_only_if_somebody_named_it() {
        let nowhere = Path::new("/proc/nothing/vgemd.toml");
        assert_eq!(Files::read(nowhere, false).mistakes, Mistakes::default());
        assert_eq!(Failure::from(Files::read(nowhere, true).mistakes).exit(), Exit::Config);
    }

    #[test]
    fn the_file_that_is_installed_is_right() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/vgemd.toml");
        let files = Files::read(&file, true);
        assert_eq!(files.mistakes, Mistakes::default());
        assert!(files.config.devices.contains_key("blk"));
    }
}
