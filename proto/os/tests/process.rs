//! Starting processes, and what they find.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;

use rustix::event::EventfdFlags;
use rustix::io::{Errno, FdFlags};
use vgem_os::process::{Child, Launch, Output, inherited, limits};

fn an_fd(value: u32) -> OwnedFd {
    rustix::event::eventfd(value, EventfdFlags::CLOEXEC).unwrap()
}

fn a_pipe_that_says(words: &str) -> OwnedFd {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::write(&writer, words.as_bytes()).unwrap();
    reader
}

fn value(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

fn shell(script: &str) -> Launch {
    let mut launch = Launch::new("/bin/sh");
    launch.args = vec![OsString::from("-c"), script.into()];
    launch
}

fn output_of(mut launch: Launch) -> String {
    launch.stdout = Output::Pipe;
    let mut child = launch.start().unwrap();
    let mut text = String::new();
    std::fs::File::from(child.take_stdout().unwrap()).read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn a_child_finds_its_fds_at_the_numbers_asked_for_and_no_others() {
    let leaky = rustix::io::fcntl_dupfd_cloexec(an_fd(1), 40).unwrap();
    rustix::io::fcntl_setfd(&leaky, FdFlags::empty()).unwrap();
    let mut launch = shell("ls /proc/self/fd | grep -v -x -F -e 0 -e 1 -e 2");
    launch.env = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
    launch.fds = vec![(an_fd(1), 9), (an_fd(2), 5)];
    let seen = output_of(launch);
    let numbers: Vec<i32> = seen.lines().map(|line| line.parse().unwrap()).collect();
    // `ls` opens the directory it lists at the lowest free number.
    assert_eq!(numbers, [3, 5, 9]);
}

#[test]
fn placing_one_fd_does_not_overwrite_another() {
    let low: Vec<OwnedFd> = (0..20).map(an_fd).collect();
    let sources = ["a", "b", "c", "d", "e", "f"].map(a_pipe_that_says);
    // The lowest numbers are free, so that careless copies of the sources would be at each other's targets.
    drop(low);
    let mut launch = shell("cat <&9 && cat <&8 && cat <&7 && cat <&6 && cat <&5 && cat <&4");
    launch.env = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
    launch.fds = sources.into_iter().zip((4..=9).rev()).collect();
    assert_eq!(output_of(launch), "abcdef");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_whatever_numbers_its_fds_get() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // The sources lie high, so that the targets are the lowest numbers free here: what the standard library opens to
    // hear of a failed exec would get one of them.
    let high = || rustix::io::fcntl_dupfd_cloexec(&writer, 100).unwrap();
    let mut launch = Launch::new("/nowhere/at/all");
    launch.fds = (3..40).map(|target| (high(), target)).collect();
    assert_eq!(launch.start().unwrap_err().errno(), Errno::NOENT);
    drop(writer);
    let mut said = [0; 64];
    assert_eq!(rustix::io::read(&reader, &mut said), Ok(0), "nothing was written to the child's fds");
}

#[test]
fn targets_that_collide_or_are_standard_streams_are_refused() {
    for targets in [[5, 5], [2, 5], [-1, 5]] {
        let mut launch = shell("true");
        launch.fds = targets.map(|target| (an_fd(0), target)).into_iter().collect();
        assert_eq!(launch.start().unwrap_err().errno(), Errno::INVAL, "{targets:?}");
    }
}

#[test]
fn an_inherited_fd_can_be_taken_once() {
    if let Some(side) = support::peer_side() {
        let fd = support::given(0);
        let again = inherited(fd.as_raw_fd()).map(drop).map_err(|error| error.errno());
        return side.say(&format!("{} {again:?}", value(&fd)));
    }
    let peer = support::start_peer("an_inherited_fd_can_be_taken_once", vec![an_fd(3)]);
    assert_eq!(peer.hear(), format!("3 {:?}", Err::<(), _>(Errno::BUSY)));
}

#[test]
fn an_fd_of_this_process_is_not_mistaken_for_an_inherited_one() {
    let own = an_fd(0);
    assert_eq!(inherited(own.as_raw_fd()).unwrap_err().errno(), Errno::BUSY);
}

#[test]
fn a_number_that_is_not_open_and_a_standard_stream_are_not_inherited() {
    assert_eq!(inherited(100_000).unwrap_err().errno(), Errno::BADF);
    assert_eq!(inherited(1).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_child_sees_the_environment_given_and_nothing_else() {
    let mut launch = Launch::new("/usr/bin/env");
    launch.env = vec![("ONLY".into(), "this".into())];
    assert_eq!(output_of(launch), "ONLY=this\n");
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_start() {
    assert_eq!(Launch::new("/nowhere/at/all").start().unwrap_err().errno(), Errno::NOENT);
}

#[test]
fn the_end_of_a_child_is_seen_at_its_pidfd_and_told_by_wait() {
    let mut child = shell("exit 7").start().unwrap();
    assert!(support::readable(child.as_fd()));
    child.ended().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(child.try_wait().unwrap().and_then(|status| status.code()), Some(7));
}

#[test]
fn a_killed_child_says_so_and_can_be_killed_again() {
    let mut child = waits_for_ever();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(child.kill(), Ok(()));
}

#[test]
fn a_child_that_is_to_die_with_its_parent_does() {
    if let Some(side) = support::peer_side() {
        let mut launch = shell("kill -STOP $$");
        launch.die_with_parent = true;
        let child = launch.start().unwrap();
        side.hand(&[child.pidfd.as_fd()]);
        return side.wait_for_the_end();
    }
    let mut peer = support::start_peer("a_child_that_is_to_die_with_its_parent_does", vec![]);
    let grandchild = peer.take().pop().unwrap();
    peer.kill();
    assert!(support::readable(grandchild.as_fd()), "it is gone too");
}

#[test]
fn a_child_leads_a_session_of_its_own_only_if_that_is_asked() {
    let session = |own_session| {
        // The sixth word is the session; no name of a shell has a space in it.
        let script =
            "read -r pid _ _ _ _ session _ < /proc/$$/stat; [ $pid = $session ] && echo own || echo ours";
        output_of(Launch { own_session, ..shell(script) })
    };
    assert_eq!((session(true).trim(), session(false).trim()), ("own", "ours"));
}

#[test]
fn a_process_whose_parent_is_another_is_told() {
    let error = vgem_os::process::exit_with_parent(1 << 30).unwrap_err();
    assert_eq!(error.errno(), Errno::SRCH);
    rustix::process::set_parent_process_death_signal(None).unwrap();
}

#[test]
fn the_limit_of_fds_can_be_raised_to_the_hard_one_and_beyond_it_by_those_who_may() {
    let hard = || rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let before = hard();
    let raised = limits::raise_nofile().unwrap();
    assert_eq!((raised, limits::nofile()), (hard(), hard()));
    assert!(raised >= before);
    let may_go_beyond = rustix::thread::capabilities(None)
        .unwrap()
        .effective
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    assert_eq!(raised > before, may_go_beyond && before < 1 << 20, "{before} to {raised}");
}

/// A child that reads from a pipe of which it holds the other end itself.
fn waits_for_ever() -> Child {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut launch = shell("read forever <&3");
    launch.fds = vec![(reader, 3), (writer, 4)];
    launch.start().unwrap()
}
