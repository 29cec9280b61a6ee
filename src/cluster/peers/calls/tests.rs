//! Calls to a server that does what a test tells it.

use std::sync::atomic::{AtomicUsize, Ordering};

use h2::server::SendResponse;
use http::Response;
use tokio::net::TcpListener;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// How an answer goes wrong, or does not.
#[derive(Clone, Copy)]
enum Script {
    /// As it should: the answer is the request.
    Echo,
    /// So many bytes.
    Long(usize),
    /// No message, only a status.
    Refuse,
    /// A refusal after a message.
    RefuseLate,
    /// A message that claims to be longer than it is.
    Short,
    /// Ended without a status.
    NoStatus,
    /// Ended by headers without a status.
    EmptyEnd,
    /// A refusal with details that are none.
    OddDetails,
    /// Not gRPC.
    NotFound,
    /// The stream is reset.
    Reset,
    /// The connection is closed as soon as a call is there.
    HangUp,
    /// As [`Script::Echo`], and no call after that one on this connection.
    LastOne,
}

/// A server at an address of its own, and how many connections it has had.
struct Server {
    address: String,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _from) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, script));
            }
        });
        Self { address, connections }
    }

    async fn call(&self, calls: &Calls, message: &str) -> Result<String, Failed> {
        let call = Outgoing {
            path: "/a.Service/Method",
            headers: HeaderMap::new(),
            body: framed(&message.to_owned()),
            longest_answer: 1 << 20,
        };
        let answer = calls.line(&self.address)?.call(call);
        let answer = timeout(PATIENCE, answer).await.expect("an answer in time")?;
        Ok(prost::Message::decode(answer).unwrap())
    }
}

async fn serve(stream: TcpStream, script: Script) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, answer))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/a.Service/Method");
        assert_eq!(request.headers()["te"], "trailers");
        match script {
            Script::HangUp => return,
            Script::LastOne => connection.graceful_shutdown(),
            _ => {}
        }
        tokio::spawn(answer_to(request.into_body(), answer, script));
    }
}

async fn answer_to(mut request: RecvStream, mut answer: SendResponse<Bytes>, script: Script) {
    let mut got = BytesMut::new();
    while let Some(part) = request.data().await {
        got.extend_from_slice(&part.unwrap());
    }
    let status = |code: &'static str| {
        HeaderMap::from_iter([(
            header::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static(code),
        )])
    };
    let mut head = Response::new(());
    let body = match script {
        Script::Echo | Script::LastOne | Script::RefuseLate | Script::NoStatus | Script::EmptyEnd => {
            got.freeze()
        }
        Script::OddDetails => {
            *head.headers_mut() = status("3");
            head.headers_mut().insert(DETAILS, HeaderValue::from_static("!"));
            answer.send_response(head, true).unwrap();
            return;
        }
        Script::Long(length) => framed(&"x".repeat(length)),
        Script::Short => got.freeze().slice(..PREFIX + 1),
        Script::Refuse => {
            *head.headers_mut() = status("5");
            answer.send_response(head, true).unwrap();
            return;
        }
        Script::NotFound => {
            *head.status_mut() = StatusCode::NOT_FOUND;
            answer.send_response(head, true).unwrap();
            return;
        }
        Script::Reset => {
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            return;
        }
        Script::HangUp => return,
    };
    let mut stream = answer.send_response(head, false).unwrap();
    stream.send_data(body, matches!(script, Script::NoStatus)).unwrap();
    match script {
        Script::NoStatus => {}
        Script::EmptyEnd => stream.send_trailers(HeaderMap::new()).unwrap(),
        Script::RefuseLate => stream.send_trailers(status("9")).unwrap(),
        _ => stream.send_trailers(status("0")).unwrap(),
    }
}

fn calls() -> Calls {
    Calls::new(None, PATIENCE).unwrap()
}

#[tokio::test]
async fn calls_share_a_connection_that_the_first_of_them_makes() {
    let (server, calls) = (Server::start(Script::Echo).await, calls());
    let messages: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
    let answers = messages.iter().map(|message| server.call(&calls, message));
    for (answer, message) in futures::future::join_all(answers).await.into_iter().zip(&messages) {
        assert_eq!(answer.as_ref().unwrap(), message);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_in_many_parts_is_put_together() {
    // Longer than a frame and than the window of a stream.
    let length = 700_000;
    let server = Server::start(Script::Long(length)).await;
    assert_eq!(server.call(&calls(), "").await.unwrap().len(), length);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused() {
    let server = Server::start(Script::Long(2 << 20)).await;
    let Err(Failed::Refused(status)) = server.call(&calls(), "").await else { panic!("no refusal") };
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("1048576 bytes"), "{status}");
}

#[tokio::test]
async fn what_the_other_node_refuses_is_told_apart_from_what_broke() {
    for (script, code) in [
        (Script::Refuse, Code::NotFound),
        (Script::RefuseLate, Code::FailedPrecondition),
        (Script::NotFound, Code::Unimplemented),
    ] {
        let server = Server::start(script).await;
        let Err(Failed::Refused(status)) = server.call(&calls(), "hello").await else { panic!("no refusal") };
        assert_eq!(status.code(), code);
    }
    for script in
        [Script::Short, Script::NoStatus, Script::EmptyEnd, Script::OddDetails, Script::Reset, Script::HangUp]
    {
        let server = Server::start(script).await;
        assert!(matches!(server.call(&calls(), "hello").await, Err(Failed::Broken(_))));
    }
}

#[tokio::test]
async fn a_connection_is_made_even_when_the_call_that_began_it_is_given_up() {
    let (server, calls) = (Server::start(Script::Echo).await, calls());
    let line = calls.line(&server.address).unwrap();
    let mut first = Box::pin(server.call(&calls, "hello"));
    // Looked at once: it has begun to connect, and cannot be done.
    assert!(futures::poll!(&mut first).is_pending());
    drop(first);
    assert_eq!(server.call(&calls, "hello").await.unwrap(), "hello");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert!(line.in_use().is_some());
}

#[tokio::test]
async fn all_who_wait_for_a_connection_that_fails_are_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap().to_string(), connections: Arc::default() };
    drop(listener);
    let calls = calls();
    let all = futures::future::join_all((0..20).map(|_| server.call(&calls, "hello"))).await;
    assert!(all.iter().all(|one| matches!(one, Err(Failed::Broken(_)))));
}

#[tokio::test]
async fn after_a_connection_has_ended_the_next_call_makes_another() {
    let (server, calls) = (Server::start(Script::LastOne).await, calls());
    for number in 1..=5 {
        assert_eq!(server.call(&calls, "hello").await.unwrap(), "hello");
        // The other side has said that there is no more to come, which may be known here only after the next call is on its way.
        let known = server.connections.load(Ordering::SeqCst);
        assert!(known <= number, "{known} connections for {number} calls");
        let line = calls.line(&server.address).unwrap();
        timeout(PATIENCE, async {
            while line.in_use().is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the connection is forgotten");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_connection_to_who_is_no_member_any_more_is_closed() {
    let (server, calls) = (Server::start(Script::Echo).await, calls());
    server.call(&calls, "hello").await.unwrap();
    calls.keep(&BTreeSet::from(["127.0.0.1:1"]));
    server.call(&calls, "hello").await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}
