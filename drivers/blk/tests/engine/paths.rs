//! Paths: what lies outside the roots, or is no data, is not opened, with `openat2` and without.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use vgem_driver_blk::{Blk, Setup};
use vgem_proto::error::ErrorCode;

use crate::rig::{AUTO, CREATE, CREATE_NEW, READ, Rig, WRITE, code, queue};

fn every_rig() -> [(&'static str, Rig); 2] {
    [("openat2", Rig::new()), ("walk", Rig::with(|setup| Setup { without_openat2: true, ..setup }))]
}

fn try_open(rig: &Rig, path: impl AsRef<Path>, mode: u64) -> Result<u64, vgem_driver::JobError> {
    rig.open(queue(1), path.as_ref(), mode, AUTO)
}

#[test]
fn a_file_in_a_deep_directory_is_opened_and_created() {
    for (how, rig) in every_rig() {
        std::fs::create_dir_all(rig.path("a/b/c")).expect("directories");
        rig.file("a/b/c/f", b"x");
        assert!(try_open(&rig, rig.path("a/b/c/f"), READ).is_ok(), "{how}");
        assert!(try_open(&rig, rig.path("a/./b//c/g"), CREATE).is_ok(), "{how}");
        assert!(rig.path("a/b/c/g").is_file(), "{how}");
    }
}

#[test]
fn a_path_that_is_not_absolute_or_holds_a_zero_is_refused() {
    let rig = Rig::new();
    rig.file("f", b"x");
    for path in ["", "f", "./f", "\0/f"] {
        assert_eq!(code(try_open(&rig, path, READ)), ErrorCode::BadParameter, "{path:?}");
    }
    assert_eq!(code(try_open(&rig, rig.path("f\0"), READ)), ErrorCode::BadParameter);
}

#[test]
fn a_path_outside_the_roots_is_refused_also_when_it_begins_like_one() {
    for (how, rig) in every_rig() {
        let mut sibling = rig.dir.path().as_os_str().to_owned();
        sibling.push("-sibling");
        for path in [Path::new("/etc/passwd"), Path::new("/"), Path::new(&sibling)] {
            assert_eq!(code(try_open(&rig, path, READ)), ErrorCode::NotPermitted, "{how}: {path:?}");
        }
    }
}

#[test]
fn a_path_with_two_dots_is_refused_wherever_it_leads() {
    for (how, rig) in every_rig() {
        rig.file("f", b"x");
        for path in ["../x", "a/../f", "..", "a/../../etc/passwd"] {
            assert_eq!(code(try_open(&rig, rig.path(path), READ)), ErrorCode::NotPermitted, "{how}: {path}");
        }
    }
}

#[test]
fn a_symbolic_link_out_of_the_root_is_refused_for_reading_and_for_creating() {
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("another directory");
    std::fs::write(outside.path().join("secret"), b"x").expect("written");
    for (how, rig) in every_rig() {
        symlink(outside.path(), rig.path("dir")).expect("linked");
        symlink(outside.path().join("secret"), rig.path("file")).expect("linked");
        symlink(outside.path().join("new"), rig.path("dangling")).expect("linked");
        let escape = Path::new("..").join(outside.path().file_name().expect("a name")).join("secret");
        symlink(escape, rig.path("relative")).expect("linked");
        for path in ["dir/secret", "file", "relative"] {
            for mode in [READ, WRITE, CREATE] {
                assert_eq!(
                    code(try_open(&rig, rig.path(path), mode)),
                    ErrorCode::NotPermitted,
                    "{how}: {path}"
                );
            }
        }
        for mode in [CREATE, CREATE_NEW] {
            assert_eq!(code(try_open(&rig, rig.path("dangling"), mode)), ErrorCode::NotPermitted, "{how}");
            assert_eq!(code(try_open(&rig, rig.path("dir/new"), mode)), ErrorCode::NotPermitted, "{how}");
        }
    }
    assert_eq!(std::fs::read(outside.path().join("secret")).expect("untouched"), b"x");
    assert!(!outside.path().join("new").exists());
}

#[test]
fn a_symbolic_link_inside_the_root_is_followed_by_openat2_and_refused_without() {
    for ((how, rig), followed) in every_rig().into_iter().zip([true, false]) {
        rig.file("f", b"x");
        symlink("f", rig.path("link")).expect("linked");
        assert_eq!(try_open(&rig, rig.path("link"), READ).is_ok(), followed, "{how}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    for (how, rig) in every_rig() {
        rig.file("f", b"x");
        for (path, mode) in [("no", READ), ("no", WRITE), ("no/no", CREATE), ("f/no", READ)] {
            assert_eq!(code(try_open(&rig, rig.path(path), mode)), ErrorCode::NotFound, "{how}: {path}");
        }
    }
}

#[test]
fn fifos_sockets_directories_and_character_devices_are_refused_without_being_opened() {
    for (how, rig) in every_rig() {
        std::fs::create_dir(rig.path("dir")).expect("a directory");
        let made = Command::new("mkfifo").arg(rig.path("fifo")).status().expect("mkfifo runs");
        assert!(made.success());
        let _socket = UnixListener::bind(rig.path("socket")).expect("a socket");
        for (path, kind) in [("dir", "directory"), ("fifo", "FIFO"), ("socket", "socket"), ("", "directory")]
        {
            for mode in [READ, WRITE, CREATE] {
                let failed = try_open(&rig, rig.path(path), mode).expect_err("no data");
                assert_eq!(failed.code, ErrorCode::NotPermitted, "{how}: {failed}");
                assert!(failed.text.contains(kind), "{how}: {failed}");
            }
        }
    }
    let rig = Rig::with(|setup| Setup { roots: vec!["/dev".into()], ..setup });
    assert_eq!(code(try_open(&rig, "/dev/zero", READ)), ErrorCode::NotPermitted);
}

#[test]
fn files_of_the_kernel_are_refused_although_they_look_regular() {
    let rig = Rig::with(|setup| Setup { roots: vec!["/".into()], ..setup });
    let own = format!("/proc/{}/mem", std::process::id());
    for path in [own.as_str(), "/proc/self/mem", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"] {
        if Path::new(path).exists() {
            assert_eq!(code(try_open(&rig, path, READ)), ErrorCode::NotPermitted, "{path}");
        }
    }
    assert!(Path::new(&own).exists(), "at least one of them is there");
}

#[test]
fn magic_links_are_refused() {
    let rig = Rig::with(|setup| Setup { roots: vec!["/".into()], ..setup });
    let file = std::fs::File::open(rig.file("f", b"x")).expect("opened");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(code(try_open(&rig, path, READ)), ErrorCode::NotPermitted);
}

#[test]
fn a_root_that_is_a_file_allows_that_file_and_nothing_beside_it() {
    let home = Rig::new();
    let (path, beside) = (home.file("f", b"x"), home.file("g", b"y"));
    let rig = Rig::with(|setup| Setup { roots: vec![path.clone()], ..setup });
    assert!(try_open(&rig, &path, READ).is_ok());
    assert_eq!(code(try_open(&rig, beside, READ)), ErrorCode::NotPermitted);
    assert_eq!(code(try_open(&rig, path.join("h"), READ)), ErrorCode::NotPermitted);
}

#[test]
fn a_root_may_be_named_through_a_symbolic_link_or_as_it_is() {
    let home = Rig::new();
    std::fs::create_dir(home.path("real")).expect("a directory");
    let file = home.file("real/f", b"x");
    symlink(home.path("real"), home.path("alias")).expect("linked");
    let rig = Rig::with(|setup| Setup { roots: vec![home.path("alias")], ..setup });
    assert!(try_open(&rig, home.path("alias/f"), READ).is_ok());
    assert!(try_open(&rig, file, READ).is_ok());
}

#[test]
fn without_roots_nothing_is_opened() {
    let rig = Rig::with(|setup| Setup { roots: vec![], ..setup });
    assert_eq!(code(try_open(&rig, rig.path("f"), CREATE)), ErrorCode::NotPermitted);
}

#[test]
fn a_root_that_is_missing_or_relative_keeps_the_device_from_starting() {
    for (root, wanted) in [("/no/such/root", ErrorCode::NotFound), ("relative", ErrorCode::BadParameter)] {
        let setup = Setup { roots: vec![root.into()], ..Setup::default() };
        let failed = Blk::new(&setup).expect_err("no such root");
        assert!(failed.code == wanted && failed.text.contains(root), "{failed}");
    }
}
