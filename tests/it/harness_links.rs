//! The relays between nodes know who connects, and cut what they are told to cut.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::links::{Link, Network};
use crate::harness::wait::PATIENCE;

/// Sends each line it is told to, and tells what came back.
const TALKER: &str = r#"
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit
while read -r line; do
    echo "$line" >&3 || exit
    read -r back <&3 || exit
    echo "$back"
done
"#;

struct Talker {
    child: Child,
    words: ChildStdin,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Talker {
    fn new(to: SocketAddr) -> Self {
        let mut bash = Command::new("bash");
        bash.args(["-c", TALKER, "bash", &to.port().to_string()]).stderr(Stdio::null());
        let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let words = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, heard) = mpsc::unbounded_channel();
        // Ends with the process.
        thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, words, heard }
    }

    fn says(&mut self, line: &str) {
        writeln!(self.words, "{line}").unwrap();
    }

    /// The next line that came back; none when it ended.
    async fn hears(&mut self) -> Option<String> {
        timeout(PATIENCE, self.heard.recv()).await.expect("a line or the end")
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Returns everything to whoever sent it.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
                let _closed = to.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn one_link_is_cut_and_others_stay() {
    let network = Network::new();
    let relay = network.relay(2, echo().await).await;
    let (mut one, mut other) = (Talker::new(relay), Talker::new(relay));
    network.runs_as(0, one.child.id());
    network.runs_as(1, other.child.id());
    for talker in [&mut one, &mut other] {
        talker.says("hello");
        assert_eq!(talker.hears().await.as_deref(), Some("hello"));
    }

    network.between(0, 1..3, Link::Hung);
    one.says("lost");
    other.says("heard");
    assert_eq!(other.hears().await.as_deref(), Some("heard"));
    // It would have come by now.
    assert!(one.heard.try_recv().is_err());
    network.between(0, 1..3, Link::Open);
    assert_eq!(one.hears().await.as_deref(), Some("lost"));

    network.toward(2, 0..1, Link::Reset);
    one.says("nobody hears me");
    assert_eq!(one.hears().await, None, "its connection was reset");
    other.says("still there");
    assert_eq!(other.hears().await.as_deref(), Some("still there"));
    let mut again = Talker::new(relay);
    network.runs_as(0, again.child.id());
    again.says("nobody hears me");
    assert_eq!(again.hears().await, None);
}
