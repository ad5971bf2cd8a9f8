//! Buffers on loan between clients of a broker that is real.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them; without them it fails and says where it looked.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use vgem::{
    Access, Borrowed, Buffer, BufferOptions, Client, ClientOptions, Embedded, Error, ErrorCode, FenceError,
    Loan, LocalError, TransferError, wait_any,
};
use vgem_os::seqpacket::Socket;

const SOON: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(20);

struct Real {
    // Clients end before their broker.
    lender: Client,
    borrower: Client,
    near: UnixStream,
    far: UnixStream,
    /// The borrower's connection: shut down, its session ends as that of a process that dies.
    life: Socket,
    _broker: Embedded,
}

fn real() -> Real {
    let broker = Embedded::start().expect("a private broker");
    let lender = broker.client().expect("a client");
    let socket = Socket::connect(broker.socket()).expect("it listens");
    let life = Socket::from(socket.as_fd().try_clone_to_owned().expect("an fd"));
    let borrower = ClientOptions::new().over(socket).expect("a client");
    let (near, far) = UnixStream::pair().expect("a pair");
    Real { lender, borrower, near, far, life, _broker: broker }
}

impl Real {
    fn buffer(&self, name: &str) -> Buffer {
        self.lender.create_with(8192, &BufferOptions::new().name(name)).expect("memory")
    }

    fn lend(&self, buffer: &Buffer, access: Access) -> (Loan, Borrowed) {
        let loan = buffer.lend(&self.near, access, SOON).expect("it goes out");
        (loan, self.borrower.borrow(&self.far, SOON).expect("it comes"))
    }
}

/// What became of a wait, in a form that can be compared.
fn word(outcome: Result<(), FenceError>) -> String {
    match outcome {
        Ok(()) => "ok".into(),
        Err(FenceError::Failed(failure)) => failure.code.name().into(),
        Err(FenceError::Timeout { .. }) => "timeout".into(),
        Err(other) => other.to_string(),
    }
}

#[test]
fn t4_a_lent_buffer_is_the_lenders_again_once_it_is_given_back() {
    let real = real();
    let frame = real.buffer("frame");
    let (loan, borrowed) = real.lend(&frame, Access::Write);
    assert_eq!((borrowed.name(), borrowed.access(), borrowed.len()), ("frame", Access::Write, 8192));
    borrowed.write(.., SOON).expect("nobody uses it").fill(7);
    assert!(!loan.has_ended() && frame.try_read(..).expect("nothing failed").is_none());
    assert!(matches!(frame.write(.., MOMENT), Err(Error::Timeout { .. })));
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| frame.read(.., SOON).map(|bytes| bytes[0]));
        std::thread::sleep(MOMENT);
        borrowed.give_back(SOON).expect("in order");
        assert_eq!(reading.join().expect("no panic").expect("it is back"), 7);
    });
    assert_eq!(word(loan.returned(SOON)), "ok");
}

#[test]
fn t4_loans_of_their_own_come_back_in_any_order() {
    let real = real();
    let frames = ["a", "b", "c"].map(|name| real.buffer(name));
    let loans: Vec<_> = frames.iter().map(|frame| real.lend(frame, Access::Write)).collect();
    let (loans, mut borrowed): (Vec<_>, Vec<_>) = loans.into_iter().unzip();
    borrowed.remove(1).give_back(SOON).expect("the second first");
    assert_eq!(word(loans[1].returned(SOON)), "ok");
    assert!(!loans[0].has_ended() && !loans[2].has_ended());
    drop(borrowed.remove(1));
    assert_eq!(word(loans[2].returned(SOON)), "ok", "dropped is given back");
    assert_eq!(word(loans[0].returned(MOMENT)), "timeout");
}

#[test]
fn t4_one_timeline_over_releases_out_of_order_is_refused_with_the_reason() {
    let real = real();
    let frames = ["a", "b", "c"].map(|name| real.buffer(name));
    let mut series = real.lender.loan_series("frames").expect("a series");
    let lend = |frame: &Buffer, series: &mut vgem::LoanSeries| {
        let loan = frame.lend_in(series, &real.near, Access::Write, SOON).expect("it goes out");
        (loan, real.borrower.borrow(&real.far, SOON).expect("it comes"))
    };
    let (first, a) = lend(&frames[0], &mut series);
    let (second, b) = lend(&frames[1], &mut series);
    let refused = b.give_back(SOON).expect_err("the first is not back");
    let Error::Local(reason @ LocalError::OutOfOrder { .. }) = &refused.error else { panic!("{refused:?}") };
    let said = reason.to_string();
    assert!(said.contains("returning loan 2 would say that loan 1 is returned too"), "{said}");
    assert!(said.contains("Buffer::lend"), "{said}");
    let b = refused.memory.expect("it is still on loan");
    assert!(!first.has_ended() && !second.has_ended());
    a.give_back(SOON).expect("in order");
    assert_eq!((word(first.returned(SOON)), second.has_ended()), ("ok".into(), false));
    b.give_back(SOON).expect("in order");
    assert_eq!((word(second.returned(SOON)), series.len()), ("ok".into(), 2));
    let (third, c) = lend(&frames[2], &mut series);
    drop(c);
    assert_eq!(word(third.returned(SOON)), "ok", "and the series goes on");
}

#[test]
fn t4_a_loan_that_is_dropped_too_early_is_returned_late_and_never_wrongly() {
    let real = real();
    let frames = ["a", "b"].map(|name| real.buffer(name));
    let mut series = real.lender.loan_series("frames").expect("a series");
    let mut loans = Vec::new();
    let mut borrowed = Vec::new();
    for frame in &frames {
        loans.push(frame.lend_in(&mut series, &real.near, Access::Write, SOON).expect("it goes out"));
        borrowed.push(real.borrower.borrow(&real.far, SOON).expect("it comes"));
    }
    drop(borrowed.pop());
    assert_eq!(word(loans[1].returned(MOMENT)), "timeout");
    assert!(!loans[0].has_ended());
    drop(borrowed);
    assert_eq!(loans.iter().map(|loan| word(loan.returned(SOON))).collect::<Vec<_>>(), ["ok", "ok"]);
}

#[test]
fn t8_a_borrower_may_signal_its_loan_and_nothing_else() {
    let real = real();
    let frame = real.buffer("frame");
    let (loan, borrowed) = real.lend(&frame, Access::Read);
    assert!(!borrowed.is_writable() && borrowed.write(.., SOON).is_err());
    assert!(frame.read(.., SOON).is_ok(), "two may read");
    assert!(frame.try_write(..).expect("nothing failed").is_none());
    drop(borrowed);
    assert!(loan.returned(SOON).is_ok() && frame.write(.., SOON).is_ok());
}

#[test]
fn the_death_of_a_borrower_ends_its_loan_at_once() {
    let real = real();
    let (written, read) = (real.buffer("written"), real.buffer("read"));
    let (write, _borrowed) = real.lend(&written, Access::Write);
    let (look, _also) = real.lend(&read, Access::Read);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| write.returned(SOON));
        std::thread::sleep(MOMENT);
        let begin = Instant::now();
        real.life.shutdown().expect("a live connection");
        assert_eq!(word(waiting.join().expect("no panic")), "OwnerDied");
        assert!(begin.elapsed() < SOON / 20, "{:?}", begin.elapsed());
    });
    let Err(Error::Job(failure)) = written.read(.., SOON) else { panic!("it may be half written") };
    assert_eq!(failure.code, ErrorCode::OwnerDied);
    written.write(.., SOON).expect("nobody has it").fill(0);
    assert!(written.read(.., SOON).is_ok(), "written anew it is good");
    assert_eq!(word(look.returned(SOON)), "OwnerDied");
    assert!(read.read(.., SOON).is_ok(), "whoever only reads leaves nothing");
}

#[test]
fn a_borrower_that_fails_or_panics_says_so() {
    let real = real();
    let frame = real.buffer("frame");
    let (loan, borrowed) = real.lend(&frame, Access::Write);
    borrowed.fail(ErrorCode::CorruptInput, "no such format").expect("a cause");
    let Err(FenceError::Failed(failure)) = loan.returned(SOON) else { panic!("it failed") };
    assert!(failure.to_string().contains("no such format"), "{failure}");
    let (loan, borrowed) = real.lend(&real.buffer("other"), Access::Write);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _borrowed = borrowed;
        panic!("half way");
    }));
    assert!(panicked.is_err());
    assert_eq!(word(loan.returned(SOON)), "DriverFault");
}

#[test]
fn a_loan_waits_for_the_borrowers_jobs() {
    let real = real();
    let frame = real.lender.create(64 << 20).expect("memory");
    let (loan, borrowed) = real.lend(&frame, Access::Write);
    let copy = real.borrower.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.borrower.batch();
    batch.job(&copy, "fill").output(&*borrowed).param("byte", 5);
    let job = batch.submit().expect("sent").last().clone();
    drop(borrowed);
    assert!(loan.returned(SOON).is_ok() && job.has_ended());
    assert!(frame.read(.., SOON).expect("it is back").iter().all(|byte| *byte == 5));
}

#[test]
fn a_job_that_would_get_in_a_borrowers_way_is_refused_unless_it_comes_after_the_loan() {
    let real = real();
    let frame = real.buffer("frame");
    let (loan, borrowed) = real.lend(&frame, Access::Write);
    let copy = real.lender.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.lender.batch();
    batch.job(&copy, "fill").output(&frame).param("byte", 1);
    let Err(Error::Local(refused @ LocalError::Lent { .. })) = batch.submit() else { panic!("it is lent") };
    assert!(refused.to_string().contains("on loan until release of frame"), "{refused}");
    borrowed.promise(SOON).expect("promised");
    loan.release().wait_available(SOON).expect("it is promised");
    batch.job(&copy, "fill").output(&frame).param("byte", 1).behind(&loan.release());
    let job = batch.submit().expect("it comes after the loan").last().clone();
    assert!(matches!(job.wait(MOMENT), Err(FenceError::Timeout { .. })));
    assert!(
        borrowed.write_explicit(.., SOON).is_ok(),
        "the job waits for this client, not the other way round"
    );
    borrowed.give_back(SOON).expect("in order");
    assert!(job.wait(SOON).is_ok());
    batch.job(&copy, "fill").output(&frame).param("byte", 2);
    batch.submit().expect("it is back").wait(SOON).expect("nothing is in its way");
}

#[test]
fn a_lender_waits_for_whichever_loan_comes_back_first() {
    let real = real();
    let frames = ["a", "b"].map(|name| real.buffer(name));
    let (loans, mut borrowed): (Vec<_>, Vec<_>) =
        frames.iter().map(|frame| real.lend(frame, Access::Write)).unzip();
    let fences: Vec<_> = loans.iter().map(|loan| loan.release().promised_by(SOON)).collect();
    std::thread::scope(|threads| {
        let any = threads.spawn(|| wait_any(&fences, SOON));
        std::thread::sleep(MOMENT);
        drop(borrowed.pop());
        assert_eq!(any.join().expect("no panic").expect("one came"), Some(1));
    });
}

#[test]
fn a_buffer_under_a_guard_is_not_lent() {
    let real = real();
    let frame = real.buffer("frame");
    let guard = frame.write(.., SOON).expect("nobody uses it");
    let refused = frame.lend(&real.near, Access::Write, SOON);
    assert!(matches!(refused, Err(Error::Local(LocalError::GuardHeld { offset: 0, len: 8192 }))));
    drop(guard);
    let (loan, _borrowed) = real.lend(&frame, Access::Write);
    assert!(!loan.has_ended());
}

#[test]
fn a_loan_that_could_not_be_sent_was_none() {
    let real = real();
    let frame = real.buffer("frame");
    let Real { near, far, .. } = &real;
    far.shutdown(std::net::Shutdown::Both).expect("a socket");
    assert!(frame.lend(near, Access::Write, SOON).is_err());
    assert!(frame.write(.., SOON).is_ok());
}

#[test]
fn a_buffer_that_is_given_for_good_is_no_loan_and_the_other_way_round() {
    let real = real();
    let frame = real.buffer("frame");
    let (near, far) = Socket::pair().expect("a pair");
    frame.send(&near, Access::Read, SOON).expect("it goes out");
    let refused = real.borrower.borrow(&far, SOON).map(drop);
    assert!(
        matches!(refused, Err(Error::Transfer(TransferError::Length { len: 88, wanted: 128 }))),
        "{refused:?}"
    );
    let _loan = frame.lend(&real.near, Access::Read, SOON).expect("it goes out");
    let refused = real.borrower.receive(&real.far, SOON).map(drop);
    assert!(matches!(refused, Err(Error::Transfer(TransferError::Magic { .. }))), "{refused:?}");
}

#[cfg(feature = "tokio")]
#[test]
fn t4_tasks_lend_and_borrow_too() {
    let broker = Embedded::start().expect("a private broker");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let lender = vgem::aio::Client::connect(broker.socket()).await.expect("a client");
        let borrower = vgem::aio::Client::connect(broker.socket()).await.expect("a client");
        let (near, far) = UnixStream::pair().expect("a pair");
        let frame = lender.create(4096).await.expect("memory");
        let loan = lender.lend(&frame, &near, Access::Write, SOON).await.expect("it goes out");
        let borrowed = borrower.borrow(&far, SOON).await.expect("it comes");
        borrower.write(&borrowed, .., SOON).await.expect("nobody uses it").fill(3);
        let waiting = tokio::spawn(loan.returned_async(SOON));
        borrower.give_back(borrowed, SOON).await.expect("in order");
        assert!(waiting.await.expect("no panic").is_ok());
        assert_eq!(lender.read(&frame, .., SOON).await.expect("it is back")[0], 3);
        let mut series = lender.loan_series("frames").await.expect("a series");
        let loan =
            lender.lend_in(&frame, &mut series, &near, Access::Write, SOON).await.expect("it goes out");
        drop(borrower.borrow(&far, SOON).await.expect("it comes"));
        assert!(loan.returned_async(SOON).await.is_ok());
    });
}
