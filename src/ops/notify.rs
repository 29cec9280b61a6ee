//! Telling systemd how the node does, by the protocol of `sd_notify(3)`: datagrams to a socket that it names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::health::Health;

/// How often it is looked whether there is something to tell.
const LOOK: Duration = Duration::from_millis(250);

/// The way to whoever started the process.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How often it wants to hear that the node lives; none = it does not.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// To the socket at `path`, which begins with `@` where it is an abstract one. It wants to hear within `watchdog` that
    /// the node lives.
    ///
    /// # Errors
    /// When there is no way to that socket.
    pub fn new(path: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let to = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        // It must not hold up anything.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to, watchdog })
    }

    fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.to) {
            tracing::debug!(%error, what, "systemd could not be told");
        }
    }

    /// Tells until the node has stopped.
    pub(super) async fn run(&self, health: &Health, stop: &CancellationToken) {
        // As often as it takes for one that is late not to matter.
        let every =
            self.watchdog.and_then(|within| within.checked_div(3)).map_or(LOOK, |third| third.min(LOOK));
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ready, mut stopping, mut status) = (false, false, String::new());
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if !ready && health.startup().why_not().is_none() {
                ready = true;
                self.tell("READY=1");
            }
            if !stopping && health.is_stopping() {
                stopping = true;
                self.tell("STOPPING=1");
            }
            let now = match health.ready().why_not() {
                None => String::from("ready"),
                // Without numbers that change all the time.
                Some(why) => why.split(" for ").next().unwrap_or_default().to_owned(),
            };
            if now != status {
                self.tell(&format!("STATUS={now}"));
                status = now;
            }
            if self.watchdog.is_some() && health.live().why_not().is_none() {
                self.tell("WATCHDOG=1");
            }
        }
        if !stopping {
            self.tell("STOPPING=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::health::HealthConfig;
    use super::*;

    #[tokio::test]
    async fn systemd_hears_of_start_life_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let health = Health::new(HealthConfig {
            ping_every: Duration::from_secs(1),
            stale_after: Duration::from_secs(60),
            stalled_after: Duration::from_secs(60),
        });
        let notifier = Notifier::new(path.as_os_str(), Some(Duration::from_millis(90))).unwrap();
        let stop = CancellationToken::new();
        let telling = {
            let (health, stop) = (Arc::clone(&health), stop.clone());
            tokio::spawn(async move { notifier.run(&health, &stop).await })
        };
        let hear = async |wanted: &str| {
            let mut bytes = [0; 512];
            let mut heard = Vec::new();
            let hearing = async {
                loop {
                    let length = socket.recv(&mut bytes).await.unwrap();
                    heard.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
                    if heard.last().is_some_and(|last| last == wanted) {
                        return;
                    }
                }
            };
            let late = tokio::time::timeout(Duration::from_secs(20), hearing).await.is_err();
            assert!(!late, "{wanted} is not among {heard:?}");
            heard
        };
        let before = hear("WATCHDOG=1").await;
        assert!(
            before.contains(&String::from("STATUS=start: not yet, reading the configuration")),
            "{before:?}"
        );
        assert!(!before.contains(&String::from("READY=1")), "{before:?}");
        health.store_answered(Duration::ZERO);
        health.has_started(Vec::new());
        hear("READY=1").await;
        hear("STATUS=ready").await;
        health.stops();
        hear("STOPPING=1").await;
        hear("STATUS=drain: the node is stopping").await;
        stop.cancel();
        telling.await.unwrap();
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("@order-service-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::new(OsStr::new(&name), None).unwrap().tell("READY=1");
        let mut bytes = [0; 16];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 7);
    }
}
