//! Connections become secure beside each other: one that is slow holds up no other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::ServerTls;

/// Secure connections that wait to be served: they are taken at once.
const READY: usize = 16;

/// What handshakes may take.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// Longest handshake.
    pub timeout: Duration,
    /// Handshakes under way at once; further connections wait in the system's queue.
    pub at_once: usize,
}

/// The connections of `plain` on which a handshake was made. Ends, and closes `plain`, when it is dropped.
pub fn secured<S, C>(
    plain: S,
    tls: Arc<ServerTls>,
    limits: HandshakeLimits,
) -> impl Stream<Item = io::Result<TlsStream<C>>> + Send
where
    S: Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, ready) = mpsc::channel(READY);
    tokio::spawn(accept(plain, tls, limits, sender));
    ReceiverStream::new(ready)
}

async fn accept<S, C>(
    mut plain: S,
    tls: Arc<ServerTls>,
    limits: HandshakeLimits,
    sender: mpsc::Sender<io::Result<TlsStream<C>>>,
) where
    S: Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let turns = Arc::new(Semaphore::new(limits.at_once));
    loop {
        let next = async {
            let turn = Arc::clone(&turns).acquire_owned().await.ok()?;
            Some((turn, plain.next().await?))
        };
        let (turn, connection) = tokio::select! {
            next = next => match next {
                Some(next) => next,
                None => return,
            },
            () = sender.closed() => return,
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                if sender.send(Err(error)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        // As new as the files are now.
        let acceptor = TlsAcceptor::from(tls.current());
        let sender = sender.clone();
        tokio::spawn(async move {
            let outcome = match timeout(limits.timeout, acceptor.accept(connection)).await {
                Ok(Ok(secure)) => {
                    drop(turn);
                    // Nobody takes it any more when the listener has stopped.
                    let _stopped = sender.send(Ok(secure)).await;
                    "done"
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a handshake failed");
                    "failed"
                }
                Err(_late) => "late",
            };
            metrics::counter!("order_tls_handshakes_total", "outcome" => outcome).increment(1);
        });
    }
}
