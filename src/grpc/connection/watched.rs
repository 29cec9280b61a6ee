//! A connection with a meter on it, and what its keeper wants to know.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closed;
use super::meter::Meter;

/// How a connection is doing. Times are milliseconds from its beginning.
#[derive(Debug)]
pub(super) struct Vitals {
    began: Instant,
    /// Since when its client has owed the rest of what it began; `NEVER` = it owes nothing.
    owes_since: AtomicU64,
    /// Calls that are not answered to the end.
    open: AtomicUsize,
    /// When the last one ended.
    idle_since: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Vitals {
    /// Of one whose client has said nothing yet.
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            owes_since: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
        }
    }

    fn at(&self, moment: Instant) -> u64 {
        let passed = moment.saturating_duration_since(self.began).as_millis();
        u64::try_from(passed).unwrap_or(NEVER)
    }

    fn note(&self, owes_since: Option<Instant>) {
        self.owes_since.store(owes_since.map_or(NEVER, |since| self.at(since)), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn at_rest(&self) {
        self.note(None);
    }

    /// For how long something has been begun and not ended.
    pub(super) fn stuck_for(&self, now: Instant) -> Duration {
        match self.owes_since.load(Ordering::Relaxed) {
            NEVER => Duration::ZERO,
            since => Duration::from_millis(self.at(now).saturating_sub(since)),
        }
    }

    /// For how long there has been no call.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        if self.open.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(self.at(now).saturating_sub(self.idle_since.load(Ordering::Relaxed)))
    }
}

/// A call that is not answered to the end.
#[derive(Debug)]
pub(super) struct OpenCall(Arc<Vitals>);

impl OpenCall {
    pub(super) fn begin(vitals: &Arc<Vitals>) -> Self {
        vitals.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(vitals))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        // First the time, so that nobody sees an idle connection with an old one.
        self.0.idle_since.store(self.0.at(Instant::now()), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
    }
}

/// A connection whose frames are looked at as they pass.
#[derive(Debug)]
pub(super) struct Watched<IO> {
    io: IO,
    meter: Meter,
    vitals: Arc<Vitals>,
}

impl<IO> Watched<IO> {
    pub(super) fn new(io: IO, meter: Meter, vitals: Arc<Vitals>) -> Self {
        Self { io, meter, vitals }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        if let Err(abuse) = this.meter.came(came, Instant::now()) {
            closed(abuse.name());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, abuse.name())));
        }
        this.vitals.note(this.meter.owes_since());
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.meter.sent(bytes.get(..sent).unwrap_or(bytes));
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = ready!(Pin::new(&mut this.io).poll_write_vectored(context, pieces))?;
        let mut left = sent;
        for piece in pieces {
            let part = left.min(piece.len());
            this.meter.sent(piece.get(..part).unwrap_or_default());
            left = left.saturating_sub(part);
        }
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
