//! Who gets a connection: so many in all, and so many from one address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;

/// The pause after a connection that could not be taken: descriptors are short, and asking at once again would not help.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that get a place; the others are closed at once. Ends never; the listener is closed when this is dropped.
pub(super) fn accept(
    listener: TcpListener,
    most: usize,
    most_of_one: usize,
) -> impl Stream<Item = io::Result<Placed<TcpStream>>> {
    let places = Arc::new(Places { most, most_of_one, taken: Mutex::default() });
    unfold((listener, places), async |(listener, places)| {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(place) = Places::take(&places, from.ip()) else { continue };
            // One that is gone already fails later as well.
            let _gone = stream.set_nodelay(true);
            return Some((Ok(Placed { io: stream, _place: place }), (listener, places)));
        }
    })
}

/// The places there are.
#[derive(Debug)]
struct Places {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(this: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let from = one_place(from);
        let mut taken = this.taken();
        let of_one = taken.by_address.get(&from).copied().unwrap_or_default();
        let full = match () {
            () if taken.all >= this.most => Some("all"),
            () if of_one >= this.most_of_one => Some("address"),
            () => None,
        };
        if let Some(limit) = full {
            metrics::counter!("order_grpc_connections_refused_total", "limit" => limit).increment(1);
            return None;
        }
        taken.all = taken.all.saturating_add(1);
        taken.by_address.insert(from, of_one.saturating_add(1));
        metrics::gauge!("order_grpc_connections").set(taken.all as f64);
        Some(Place { places: Arc::clone(this), from })
    }
}

/// Whose address this is: of version 6, each customer has at least so many bits for themselves.
fn one_place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// A place; free again when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        metrics::gauge!("order_grpc_connections").set(taken.all as f64);
        let left = taken.by_address.get(&self.from).copied().unwrap_or_default().saturating_sub(1);
        match left {
            0 => taken.by_address.remove(&self.from),
            left => taken.by_address.insert(self.from, left),
        };
    }
}

/// A connection with a place.
#[derive(Debug)]
pub(super) struct Placed<IO> {
    io: IO,
    _place: Place,
}

impl<IO: Connected> Connected for Placed<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Placed<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Placed<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, pieces)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_are_counted_by_address_and_in_all_and_are_free_again() {
        let places = Arc::new(Places { most: 3, most_of_one: 2, taken: Mutex::default() });
        let take = |address: &str| Places::take(&places, address.parse().unwrap());
        let (first, second) = (take("192.0.2.1").unwrap(), take("192.0.2.1").unwrap());
        assert!(take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none());
        let third = take("2001:db8:0:1::1").unwrap();
        assert!(take("192.0.2.9").is_none(), "there are three in all");
        drop(first);
        let fourth = take("2001:db8:0:1:ffff::2").unwrap();
        drop(second);
        assert!(take("2001:db8:0:1::3").is_none(), "one network of version 6 is one address");
        assert!(take("2001:db8:0:2::3").is_some());
        drop((third, fourth));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0));
    }
}
