//! `cargo xtask install`: puts a release build where a system looks for it.
//!
//! ```text
//! PREFIX/bin/vgemctl
//! PREFIX/bin/vgemd -> ../libexec/vgemd/vgemd
//! PREFIX/libexec/vgemd/{vgemd,vgem-control,vgem-driver-*}    the daemon finds the others beside itself
//! PREFIX/lib/{systemd/system,sysusers.d,tmpfiles.d}/
//! PREFIX/share/dbus-1/{system.d,interfaces}/       who may be it on the system's bus, and what it serves there
//! PREFIX/share/polkit-1/actions/                   what polkit may let others than root do over that bus
//! PREFIX/share/doc/vgemd/{vgemd.toml,licences}     an example; nothing in /etc is touched
//! ```

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::programs::{PROGRAMS, build_release};
use crate::workspace::Workspace;

/// Where the unit file expects the programs; replaced by where they went.
const PACKAGED_PREFIX: &str = "/usr/";

/// Build in release mode and install.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the system will find it.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Put before the prefix while copying, for those who make packages.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    destdir: PathBuf,
    /// Where the programs are; without it they are built.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// Builds and copies.
///
/// # Errors
/// When the build fails, or a program is not there, or the first file that cannot be written.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => build_release(workspace, &[])?,
    };
    let top = options.destdir.join(options.prefix.strip_prefix("/").unwrap_or(&options.prefix));
    for name in PROGRAMS {
        let folder = if name == "vgemctl" { "bin" } else { "libexec/vgemd" };
        let file = fs::read(programs.join(name)).with_context(|| format!("cannot read {name}"))?;
        put(&top.join(folder).join(name), &file, 0o755)?;
    }
    link(&top.join("bin/vgemd"), Path::new("../libexec/vgemd/vgemd"))?;

    let packaging = workspace.root().join("packaging");
    let unit = read(&packaging.join("vgemd.service"))?;
    put(&top.join("lib/systemd/system/vgemd.service"), at_prefix(&unit, &options.prefix).as_bytes(), 0o644)?;
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
    eprintln!("installed in {}", top.display());
    Ok(())
}

/// The unit file, with its programs under `prefix`.
fn at_prefix(unit: &str, prefix: &Path) -> String {
    let prefix = prefix.to_string_lossy();
    let start = format!("ExecStart={}/", prefix.trim_end_matches('/'));
    unit.replace(&format!("ExecStart={PACKAGED_PREFIX}"), &start)
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
    fn the_packaged_unit_file_names_the_packaged_prefix() {
        let unit = include_str!("../../vgemd.service");
        assert_ne!(at_prefix(unit, Path::new("/opt")), unit);
    }
}
