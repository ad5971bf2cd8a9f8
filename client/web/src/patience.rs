//! Viewers that do not read are given up.
//!
//! ```text
//!   write ─► there is room ─► written
//!              └─ no ─► wait ── room ─► written
//!                         └── too long ─► the connection has failed
//! ```

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long there may be no room for what is sent.
const UNREAD: Duration = Duration::from_secs(30);

/// A connection whose writes fail when the other end has not read for so long.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    /// Until there must be room, while there is none.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Patient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, until: None }
    }

    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let done = act(Pin::new(&mut self.stream), context);
        if done.is_ready() {
            self.until = None;
            return done;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        until.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    fn in_virtual_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(test);
    }

    #[test]
    fn atk_a_viewer_that_does_not_read_is_given_up() {
        in_virtual_time(async {
            let (ours, _theirs) = tokio::io::duplex(16);
            let (mut ours, began) = (Patient::new(ours), Instant::now());
            let sent = tokio::time::timeout(2 * UNREAD, ours.write_all(&[0; 17])).await;
            let failed = sent.expect("it is given up").expect_err("one byte too many");
            assert_eq!((failed.kind(), began.elapsed().as_secs()), (ErrorKind::TimedOut, UNREAD.as_secs()));
        });
    }

    #[test]
    fn one_that_reads_slowly_is_not() {
        in_virtual_time(async {
            let (ours, mut theirs) = tokio::io::duplex(16);
            let mut ours = Patient::new(ours);
            let slowly = async {
                for _ in 0..10 {
                    sleep(UNREAD.mul_f64(0.9)).await;
                    theirs.read_exact(&mut [0; 16]).await.expect("there is more");
                }
            };
            let (sent, ()) = tokio::join!(ours.write_all(&[0; 160]), slowly);
            sent.expect("it reads");
        });
    }
}
