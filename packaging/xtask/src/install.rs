//! `cargo xtask install`: puts a release build where a system looks for it.
//!
//! ```text
//! PREFIX/bin/{vgemctl,vgem-web}
//! PREFIX/bin/vgemd -> ../libexec/vgemd/vgemd
//! PREFIX/libexec/vgemd/{vgemd,vgem-control,vgem-driver-*}    the daemon finds the others beside itself
//! PREFIX/libexec/vgemd/vgem-bench                  with --bench: what `vgemctl bench` runs
//! PREFIX/lib/{systemd/system,sysusers.d,tmpfiles.d}/
//! PREFIX/share/dbus-1/{system.d,interfaces}/       who may be it on the system's bus, and what it serves there
//! PREFIX/share/man/man1/vgemctl*.1                 the manual
//! PREFIX/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}/
//! PREFIX/share/polkit-1/actions/                   what polkit may let others than root do over that bus
//! PREFIX/share/doc/vgemd/{vgemd.toml,licences}     an example; nothing in /etc is touched
//! ```
//!
//! The system's bus looks below /usr/share/dbus-1 and /etc/dbus-1 alone: under another prefix than /usr its file has to be
//! linked from /etc/dbus-1/system.d.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::programs::{PROGRAMS, build_release};
use crate::workspace::Workspace;

/// Where the unit file expects the programs; replaced by where they went.
const PACKAGED_PREFIX: &str = "/usr/";

/// Programs that people start themselves.
const FOR_PEOPLE: [&str; 2] = ["vgemctl", "vgem-web"];

/// Build in release mode and install.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the system will find it.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Put before the prefix while copying, for those who make packages.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    destdir: PathBuf,
    /// Install vgem-bench as well, for `vgemctl bench`.
    #[arg(long)]
    bench: bool,
    /// Where the programs are; without it they are built.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// The bench's package and program.
const BENCH: &str = "vgem-bench";

/// Builds and copies.
///
/// # Errors
/// When the build fails, or a program is not there, or the first file that cannot be written.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let also: &[&str] = if options.bench { &[BENCH] } else { &[] };
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => build_release(workspace, also)?,
    };
    let top = options.destdir.join(options.prefix.strip_prefix("/").unwrap_or(&options.prefix));
    for name in PROGRAMS.iter().chain(also).copied() {
        let folder = if FOR_PEOPLE.contains(&name) { "bin" } else { "libexec/vgemd" };
        let file = fs::read(programs.join(name)).with_context(|| format!("cannot read {name}"))?;
        put(&top.join(folder).join(name), &file, 0o755)?;
    }
    link(&top.join("bin/vgemd"), Path::new("../libexec/vgemd/vgemd"))?;

    let packaging = workspace.root().join("packaging");
    for name in ["vgemd.service", "vgem-web.service"] {
        let unit = at_prefix(&read(&packaging.join(name))?, &options.prefix);
        put(&top.join("lib/systemd/system").join(name), unit.as_bytes(), 0o644)?;
    }
    for (source, place) in [
        (packaging.join("vgemd.sysusers"), "lib/sysusers.d/vgemd.conf"),
        (packaging.join("vgemd.tmpfiles"), "lib/tmpfiles.d/vgemd.conf"),
        (packaging.join("vgemd.toml"), "share/doc/vgemd/vgemd.toml"),
        (packaging.join("dbus/org.vgemd.Broker1.conf"), "share/dbus-1/system.d/org.vgemd.Broker1.conf"),
        (packaging.join("dbus/org.vgemd.Broker1.xml"), "share/dbus-1/interfaces/org.vgemd.Broker1.xml"),
        (packaging.join("dbus/org.vgemd.policy"), "share/polkit-1/actions/org.vgemd.policy"),
        (workspace.root().join("LICENSE-APACHE"), "share/doc/vgemd/LICENSE-APACHE"),
        (workspace.root().join("LICENSE-MIT"), "share/doc/vgemd/LICENSE-MIT"),
    ] {
        put(&top.join(place), read(&source)?.as_bytes(), 0o644)?;
    }
    for page in pages(&packaging.join("man"))? {
        let name = page.file_name().unwrap_or_default();
        put(&top.join("share/man/man1").join(name), read(&page)?.as_bytes(), 0o644)?;
    }
    for (shell, place) in COMPLETIONS {
        put(&top.join(place), &completion(&programs.join("vgemctl"), shell)?, 0o644)?;
    }
    eprintln!("installed in {}", top.display());
    Ok(())
}

/// Where each shell looks for how to complete command lines.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/vgemctl"),
    ("zsh", "share/zsh/site-functions/_vgemctl"),
    ("fish", "share/fish/vendor_completions.d/vgemctl.fish"),
];

/// What the program says to a shell.
fn completion(program: &Path, shell: &str) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(program).args(["completion", shell]).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!("{} printed no completion for {shell}", program.display());
    }
    Ok(output.stdout)
}

/// The pages of the manual.
fn pages(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}; `cargo xtask man` writes it", folder.display());
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        pages.push(entry.with_context(cannot)?.path());
    }
    pages.sort();
    Ok(pages)
}

/// The unit file, with its programs and documents under `prefix`.
fn at_prefix(unit: &str, prefix: &Path) -> String {
    let prefix = prefix.to_string_lossy();
    let prefix = prefix.trim_end_matches('/');
    ["ExecStart=", "Documentation=file://"].iter().fold(unit.to_owned(), |unit, key| {
        unit.replace(&format!("{key}{PACKAGED_PREFIX}"), &format!("{key}{prefix}/"))
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes beside the place and renames, so that a program that runs is replaced and not written into.
fn put(place: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", place.display());
    let new = place.with_file_name(format!("{}.new", place.file_name().unwrap_or_default().display()));
    fs::create_dir_all(place.parent().unwrap_or(Path::new("/"))).with_context(cannot)?;
    fs::write(&new, content).with_context(cannot)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).with_context(cannot)?;
    fs::rename(&new, place).with_context(cannot)
}

fn link(place: &Path, to: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot link {}", place.display());
    if place.symlink_metadata().is_ok() {
        fs::remove_file(place).with_context(cannot)?;
    }
    symlink(to, place).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_file_starts_the_program_that_was_installed() {
        let unit = "Description=x\nExecStart=/usr/libexec/vgemd/vgemd\n";
        let installed = at_prefix(unit, Path::new("/opt/vgemd/"));
        assert_eq!(installed, "Description=x\nExecStart=/opt/vgemd/libexec/vgemd/vgemd\n");
    }

    #[test]
    fn the_packaged_unit_files_name_the_packaged_prefix() {
        for unit in [include_str!("../../vgemd.service"), include_str!("../../vgem-web.service")] {
            assert_ne!(at_prefix(unit, Path::new("/opt")), unit);
        }
    }
}
