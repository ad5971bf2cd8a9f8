//! What must hold of the source tree as text, whatever it does when it runs.
//!
//! Every rule is a function from files to offences, each `path:line: what is wrong`, and is tested
//! twice: the tree has none, and a file made to offend is found. Rust files are read as tokens, so
//! that a comment or a string about `unsafe` is not code that uses it.
//!
//! The tree is what lies under the top folder, without hidden folders other than `.ci`, `.cargo` and
//! `.config`, without `.git`, which may be a file, and without cargo's build folders, which mark
//! themselves with `CACHEDIR.TAG`.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines a Rust file may have: one idea fits in fewer.
const LINES_LIMIT: usize = 800;

/// This file holds made offences, and so is not judged by what it quotes.
const THIS_FILE: &str = "tests/tests/tree.rs";

/// A file: its path from the top of the tree, and its text.
#[derive(Debug)]
struct File {
    path: String,
    text: String,
}

#[test]
fn unsafe_is_only_behind_the_door_to_the_kernel_and_to_c_engines() {
    assert_clean(stray_unsafe(&rust_files()));
}

#[test]
fn a_stray_unsafe_is_found_and_a_mention_of_it_is_not() {
    let files = [
        file("broker/core/src/a.rs", "fn f() {\n    unsafe { g() }\n}"),
        file(
            "client/src/b.rs",
            "// unsafe\n/* unsafe /* unsafe */ */ const S: &str = \"unsafe\\\" unsafe\";",
        ),
        file(
            "client/src/c.rs",
            "const R: &str = r#\"unsafe \" unsafe\"#; fn f<'unsafe_life>() { let c = '\"'; }",
        ),
        file("proto/os/src/d.rs", "unsafe fn f() {}"),
        file("drivers/zip/src/ffi.rs", "unsafe extern \"C\" {}"),
        file("drivers/zip/src/engine.rs", "let quote = '\\''; unsafe { f() }"),
    ];
    assert_eq!(places(stray_unsafe(&files)), ["broker/core/src/a.rs:2", "drivers/zip/src/engine.rs:1"]);
}

#[test]
fn every_crate_root_forbids_unsafe_or_names_the_one_file_that_has_it() {
    let roots: Vec<_> = rust_files().into_iter().filter(|file| is_crate_root(&file.path)).collect();
    assert!(roots.len() >= 16, "found only {} crate roots", roots.len());
    assert_clean(open_roots(&roots));
}

#[test]
fn a_crate_root_that_allows_unsafe_is_found() {
    let driver = "#![deny(unsafe_code)]\n#[expect(unsafe_code, reason = \"calls C\")]\nmod ffi;";
    let files = [
        file("client/src/lib.rs", "#![forbid(unsafe_code)]"),
        file("client/ctl/src/main.rs", "fn main() {}"),
        file("broker/src/main.rs", driver),
        file("drivers/zip/src/main.rs", driver),
        file(
            "drivers/sec/src/main.rs",
            "#![deny(unsafe_code)]\n#[expect(unsafe_code, reason = \"\")]\nmod other;",
        ),
        file("drivers/copy/src/main.rs", "// #![forbid(unsafe_code)]"),
        file("proto/os/src/lib.rs", ""),
    ];
    let found = places(open_roots(&files));
    let expected = [
        "client/ctl/src/main.rs:1",
        "broker/src/main.rs:1",
        "drivers/sec/src/main.rs:1",
        "drivers/copy/src/main.rs:1",
    ];
    assert_eq!(found, expected);
}

#[test]
fn no_rust_file_is_longer_than_one_idea() {
    assert_clean(too_long(&rust_files()));
}

#[test]
fn a_file_one_line_too_long_is_found() {
    let files = [file("a.rs", &"\n".repeat(LINES_LIMIT)), file("b.rs", &"\n".repeat(LINES_LIMIT + 1))];
    assert_eq!(places(too_long(&files)), ["b.rs:801"]);
}

#[test]
fn the_rules_keep_no_time_take_no_lock_and_wait_for_nothing() {
    assert_clean(impure_rules(&rust_files()));
}

#[test]
fn a_clock_or_a_lock_in_the_rules_is_found() {
    let files = [
        file("broker/core/src/a.rs", "//! no Mutex here\nuse std::time::Instant;"),
        file("broker/core/src/b.rs", "struct S { lock: Mutex<u8> }"),
        file("broker/src/c.rs", "struct S { lock: RwLock<u8> }"),
        file("broker/src/d.rs", "use std::time::Instant;"),
    ];
    let expected = ["broker/core/src/a.rs:2", "broker/core/src/b.rs:1", "broker/src/c.rs:1"];
    assert_eq!(places(impure_rules(&files)), expected);
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    assert_clean(machine_places(&text_files()));
}

#[test]
fn a_path_of_one_machine_is_found() {
    let (work, root, home) =
        (places_of_one_machine()[0], places_of_one_machine()[1], places_of_one_machine()[2]);
    let files = [
        file("a.md", &format!("run it in `{work}/main`")),
        file("b.rs", &format!("const P: &str = \"{root}\";")),
        file("c.toml", &format!("# nothing\nroots = [\"{home}/someone\"]")),
        file("d.md", "net/workers, a/root/b, ~/home and /rootless"),
    ];
    assert_eq!(places(machine_places(&files)), ["a.md:1", "b.rs:1", "c.toml:2"]);
}

#[test]
fn no_test_is_left_out_and_no_end_left_open() {
    assert_clean(open_ends(&rust_files()));
}

#[test]
fn an_ignored_test_and_an_unwritten_function_are_found() {
    let files = [
        file("a.rs", "#[test]\n#[ignore]\nfn f() {}"),
        file("b.rs", "fn f() { todo!() }"),
        file("c.rs", "let ignore = 1; // todo!() #[ignore]"),
        file("d.rs", "#[ignore = \"slow\"]"),
    ];
    assert_eq!(places(open_ends(&files)), ["a.rs:2", "b.rs:1", "d.rs:1"]);
}

#[test]
fn every_must_of_the_specification_is_cited_by_code_or_a_test() {
    let specification = fs::read_to_string(root().join("proto/SPEC.md")).expect("proto/SPEC.md can be read");
    assert!(!numbers(&specification).is_empty(), "proto/SPEC.md numbers no MUST");
    assert_clean(uncited(&specification, &rust_files()));
}

#[test]
fn a_must_that_nothing_cites_and_a_citation_of_nothing_are_found() {
    let specification = "A reader MUST (M-001) count.\nA writer MUST (M-002) not. See M-0021 and HTM-003.";
    let files = [file("a.rs", "/// As M-001 asks."), file("b.rs", "\n// M-009")];
    assert_eq!(places(uncited(specification, &files)), ["proto/SPEC.md:2", "b.rs:2"]);
    assert_eq!(uncited(specification, &[file("c.rs", "// M-001, M-002")]), Vec::<String>::new());
}

#[test]
fn every_rule_of_the_semantics_has_a_test_named_after_it() {
    assert_clean(untested(&rules(), &rust_files()));
}

#[test]
fn a_rule_without_a_test_is_found_and_a_helper_is_no_test() {
    let files = [
        file("a.rs", "#[test]\nfn f1_once() {}\n#[tokio::test]\nasync fn t2_any() {}"),
        file("b.rs", "fn r7_helper() {}\n// #[test]\n// fn j1_whole() {}"),
        file(
            "c.rs",
            "#[test]\n#[expect(clippy::unwrap_used, reason = \"short\")]\nfn c1_guards() {}\n#[test]\nfn f10_travels() {}",
        ),
    ];
    let asked = ["f1", "f10", "t2", "r7", "j1", "c1", "t20"].map(str::to_owned);
    assert_eq!(places(untested(&asked, &files)), ["r7", "j1", "t20"]);
}

#[test]
fn every_group_of_rules_is_asked_for_from_its_first_to_its_last() {
    let known = rules().into_iter().filter(|rule| !rule.starts_with(['l', 'w'])).collect::<Vec<_>>();
    let asked = "r1 r2 r3 r4 r5 r6 r7 r8 r9 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 \
        t1 t2 t3 t4 t5 t6 t7 t8 j1 j2 j3 j4 j5 j6 j7 j8 c1 c2";
    assert_eq!(known.join(" "), asked);
}

#[test]
fn git_is_no_part_of_the_tree_and_other_hidden_files_are() {
    let top = tempfile::tempdir().expect("a folder");
    for (folder, name) in
        [("", ".git"), ("", ".gitignore"), ("sub", ".git"), ("sub", "a.rs"), (".hidden", "b")]
    {
        fs::create_dir_all(top.path().join(folder)).expect("a folder");
        fs::write(top.path().join(folder).join(name), "gitdir: elsewhere").expect("a file");
    }
    let mut found = Vec::new();
    walk(top.path(), &mut found);
    found.sort();
    assert_eq!(found, [".gitignore", "sub/a.rs"].map(|path| top.path().join(path)));
}

/// The rules of reservations, fences, timelines, jobs, lifetimes and CPU access, as tests begin with their names.
fn rules() -> Vec<String> {
    let groups = [("r", 9), ("f", 10), ("t", 8), ("j", 8), ("l", 6), ("c", 2), ("w", 3)];
    groups.iter().flat_map(|(group, count)| (1..=*count).map(move |rule| format!("{group}{rule}"))).collect()
}

/// Rules that no test is named after.
fn untested(rules: &[String], files: &[File]) -> Vec<String> {
    let mut tested = BTreeSet::new();
    for file in files {
        let code = bare(&file.text);
        // What comes after the attribute of a test, up to the name of the function.
        for (at, _) in code.match_indices("test]") {
            let Some((_, rest)) = code[at..].split_once("fn ") else { continue };
            tested.extend(rest.split_once('_').map(|(rule, _)| rule.to_owned()));
        }
    }
    let lacking = rules.iter().filter(|rule| !tested.contains(*rule));
    lacking.map(|rule| format!("{rule}: no test is named after this rule")).collect()
}

fn assert_clean(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

fn places(offences: Vec<String>) -> Vec<String> {
    offences
        .iter()
        .filter_map(|offence| offence.split_once(": "))
        .map(|(place, _)| place.to_owned())
        .collect()
}

fn stray_unsafe(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !may_be_unsafe(&file.path))
        .flat_map(|file| {
            words(&file.text, &["unsafe"]).map(|(line, _)| at(file, line, "unsafe is not for this file"))
        })
        .collect()
}

fn may_be_unsafe(path: &str) -> bool {
    path.starts_with("proto/os/") || (path.starts_with("drivers/") && path.ends_with("/src/ffi.rs"))
}

fn open_roots(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !file.path.starts_with("proto/os/"))
        .filter(|file| {
            let code: String = bare(&file.text).split_whitespace().collect();
            let names_its_ffi = code.contains("#![deny(unsafe_code)]")
                && code.matches("expect(unsafe_code").count() == 1
                && code.split_once("#[expect(unsafe_code").is_some_and(|(_, rest)| {
                    rest.split_once(")]").is_some_and(|(_, item)| item.starts_with("modffi;"))
                });
            let driver = file.path.starts_with("drivers/");
            !(code.contains("#![forbid(unsafe_code)]") || (driver && names_its_ffi))
        })
        .map(|file| {
            at(
                file,
                1,
                "must open with #![forbid(unsafe_code)], or in a driver name `mod ffi` as the exception",
            )
        })
        .collect()
}

/// Where cargo looks for the roots of libraries, programs and examples.
fn is_crate_root(path: &str) -> bool {
    let mut names = path.rsplit('/');
    match (names.next(), names.next()) {
        (Some("lib.rs" | "main.rs"), Some("src")) => true,
        (Some("main.rs"), Some(_)) | (Some(_), Some("bin" | "examples")) => !path.contains("/tests/"),
        _ => false,
    }
}

fn too_long(files: &[File]) -> Vec<String> {
    let long = |file: &&File| file.text.lines().count() > LINES_LIMIT;
    files.iter().filter(long).map(|file| at(file, LINES_LIMIT + 1, "a file has at most 800 lines")).collect()
}

fn impure_rules(files: &[File]) -> Vec<String> {
    const LOCKS: &[&str] = &["Mutex", "RwLock", "Condvar"];
    const WORLD: &[&str] = &[
        "Mutex",
        "RwLock",
        "Condvar",
        "Instant",
        "SystemTime",
        "async",
        "await",
        "thread",
        "thread_local",
        "OwnedFd",
        "BorrowedFd",
        "RawFd",
        "UnixStream",
        "RandomState",
    ];
    let mut found = Vec::new();
    for file in files {
        let (banned, why) = if file.path.starts_with("broker/core/src/") {
            (WORLD, "core knows no time, no fd, no thread, no lock and no chance")
        } else if file.path.starts_with("broker/src/") {
            (LOCKS, "one task owns what the broker knows: nothing there is locked")
        } else {
            continue;
        };
        found.extend(words(&file.text, banned).map(|(line, word)| at(file, line, &format!("{word}: {why}"))));
    }
    found
}

/// Folders that exist on one developer's machine; in two pieces, so that this file passes its own test.
fn places_of_one_machine() -> [&'static str; 4] {
    [concat!("/", "work"), concat!("/", "root"), concat!("/", "home"), concat!("/", "Users")]
}

fn machine_places(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            if places_of_one_machine().iter().any(|place| names_place(line, place)) {
                found.push(at(file, number + 1, "a path of one machine"));
            }
        }
    }
    found
}

/// Whether `line` has `place` as an absolute path or the start of one.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + place.len()..].chars().next();
        let inside = |c: char| c.is_alphanumeric() || "_-.~/".contains(c);
        !before.is_some_and(|c| inside(c) || ")}>".contains(c))
            && !after.is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c))
    })
}

fn open_ends(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in bare(&file.text).lines().enumerate() {
            let line: String = line.split_whitespace().collect();
            if ["todo!(", "unimplemented!(", "#[ignore]", "#[ignore="].iter().any(|end| line.contains(end)) {
                found.push(at(file, number + 1, "neither an ignored test nor an unwritten function stays"));
            }
        }
    }
    found
}

/// Numbered MUSTs that no Rust file cites, and citations of a number that is not there.
fn uncited(specification: &str, files: &[File]) -> Vec<String> {
    let asked = numbers(specification);
    let cited: BTreeSet<_> = files.iter().flat_map(|file| numbers(&file.text).into_keys()).collect();
    let mut found = Vec::new();
    for (number, line) in &asked {
        if !cited.contains(number) {
            found.push(format!("proto/SPEC.md:{line}: {number} is cited by no code and no test"));
        }
    }
    for file in files {
        for (number, line) in numbers(&file.text) {
            if !asked.contains_key(&number) {
                found.push(at(file, line, &format!("{number} is not in proto/SPEC.md")));
            }
        }
    }
    found
}

/// Each `M-` with exactly three digits, with the first line it is on.
fn numbers(text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            let digits = word.strip_prefix("M-").unwrap_or_default();
            if digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                found.entry(word.to_owned()).or_insert(number + 1);
            }
        }
    }
    found
}

/// The lines on which one of `wanted` stands as a word of the language.
fn words<'a>(text: &'a str, wanted: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> {
    let lines: Vec<String> = bare(text).lines().map(str::to_owned).collect();
    lines.into_iter().enumerate().flat_map(move |(number, line)| {
        let split: Vec<_> =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect();
        let on_line: Vec<_> = wanted.iter().filter(|word| split.iter().any(|one| one == **word)).collect();
        on_line.into_iter().map(move |word| (number + 1, *word))
    })
}

/// Rust text without what stands in comments, strings and characters; lines stay where they are.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !out.ends_with(is_word) => raw_string(rest).unwrap_or(0),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.push(' ');
            out.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0_usize);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of a string with escapes, quotes included.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a raw string such as `r#".."#` or `br".."`, if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after =
        text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let closed = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + closed)
}

/// Length of a character such as `'"'` or `'\''`, if this is one and not a lifetime.
fn character(text: &str) -> Option<usize> {
    let body = &text[1..];
    if let Some(escape) = body.strip_prefix('\\') {
        let close = escape.get(1..)?.find('\'')?;
        return Some(1 + 1 + 1 + close + 1);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..].starts_with('\'').then_some(1 + first.len_utf8() + 1)
}

fn at(file: &File, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.path)
}

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

fn rust_files() -> Vec<File> {
    let files: Vec<_> = text_files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs") && file.path != THIS_FILE)
        .collect();
    assert!(files.len() >= 20, "found only {} Rust files", files.len());
    files
}

/// Every file of the tree that is text.
fn text_files() -> Vec<File> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = String::from_utf8(fs::read(&path).ok()?).ok()?;
        Some(File { path: path.strip_prefix(root()).ok()?.to_str()?.to_owned(), text })
    };
    paths.into_iter().filter_map(read).collect()
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the tree can be read") {
        let entry = entry.expect("an entry of the tree can be read");
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("an entry of the tree has a type");
        let hidden = name.to_string_lossy().starts_with('.');
        if kind.is_dir() {
            let ours = !hidden || [".ci", ".cargo", ".config"].iter().any(|known| name == *known);
            if ours && !path.join("CACHEDIR.TAG").exists() {
                walk(&path, into);
            }
        } else if kind.is_file() && name != ".git" {
            into.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the source tree").to_owned()
}
