//! Reading along on a connection to Postgres: which requests a client sends, and when the server has answered one.

use std::collections::HashMap;

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The protocol of Postgres, without TLS.
    Postgres,
    /// Anything: what arrives at once is a request, and so is an answer.
    Any,
}

/// What a client sent before it waits for an answer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub(super) bytes: Vec<u8>,
    statements: Vec<String>,
    /// Of the answers that the server has to give on this connection, the one to this; none when it gives none.
    pub(super) answer: Option<u64>,
}

impl Request {
    /// Whether it runs a statement whose SQL contains this text, also one that was prepared earlier.
    pub fn runs(&self, sql: &str) -> bool {
        self.statements.iter().any(|statement| statement.contains(sql))
    }

    /// The SQL of the statements that it runs; none when the protocol is not that of Postgres.
    pub fn statements(&self) -> &[String] {
        &self.statements
    }

    /// Whether these bytes are in it, such as those of a bound value.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

/// Takes what clients send apart into requests.
#[derive(Debug)]
pub(super) struct Requests {
    protocol: Protocol,
    buffer: Vec<u8>,
    started: bool,
    current: Request,
    /// SQL by the name of the prepared statement.
    prepared: HashMap<Vec<u8>, String>,
    /// SQL by the name of the portal.
    portals: HashMap<Vec<u8>, String>,
    /// Requests so far that the server has to answer.
    asked: u64,
}

/// First numbers of the packets that come before a session and leave it unstarted: cancel, TLS, GSSAPI.
const BEFORE_START: [u32; 3] = [80_877_102, 80_877_103, 80_877_104];

impl Requests {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            buffer: Vec::new(),
            started: false,
            current: Request::default(),
            prepared: HashMap::new(),
            portals: HashMap::new(),
            asked: 0,
        }
    }

    /// The requests that are complete with these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Request> {
        let mut complete = Vec::new();
        if self.protocol == Protocol::Any {
            self.asked += 1;
            let answer = Some(self.asked);
            complete.push(Request { bytes: bytes.to_vec(), statements: Vec::new(), answer });
            return complete;
        }
        self.buffer.extend_from_slice(bytes);
        while let Some(frame) = take_frame(&mut self.buffer, self.started) {
            let kind = if self.started { frame[0] } else { 0 };
            self.current.bytes.extend_from_slice(&frame);
            match kind {
                0 => {
                    self.started = !BEFORE_START.contains(&number(&frame[4..]));
                    complete.push(self.end(self.started));
                }
                b'P' => {
                    let mut texts = frame[5..].split(|byte| *byte == 0);
                    let (name, sql) = (texts.next().unwrap(), texts.next().unwrap());
                    self.prepared.insert(name.to_vec(), String::from_utf8_lossy(sql).into_owned());
                }
                b'B' => {
                    let mut texts = frame[5..].split(|byte| *byte == 0);
                    let (portal, statement) = (texts.next().unwrap(), texts.next().unwrap());
                    let sql = self.prepared.get(statement).cloned().unwrap_or_default();
                    self.portals.insert(portal.to_vec(), sql);
                }
                b'E' => {
                    let portal = frame[5..].split(|byte| *byte == 0).next().unwrap();
                    self.current.statements.extend(self.portals.get(portal).cloned());
                }
                b'Q' => {
                    let sql = frame[5..].split(|byte| *byte == 0).next().unwrap();
                    self.current.statements.push(String::from_utf8_lossy(sql).into_owned());
                    complete.push(self.end(true));
                }
                // Sync, function call.
                b'S' | b'F' => complete.push(self.end(true)),
                // Describe and Close: the client goes on.
                b'D' | b'C' => {}
                // Flush, copied data, passwords, goodbye.
                _ => complete.push(self.end(false)),
            }
        }
        complete
    }

    fn end(&mut self, is_answered: bool) -> Request {
        self.asked += u64::from(is_answered);
        if is_answered {
            let answer = Some(self.asked);
            return Request { answer, ..std::mem::take(&mut self.current) };
        }
        // Statements whose end is still to come belong to the request that waits for it.
        let bytes = std::mem::take(&mut self.current.bytes);
        Request { bytes, ..self.current.clone() }
    }
}

/// What a server said to a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// What became of each statement, such as `UPDATE 1`.
    pub tags: Vec<String>,
    /// Code and message of the error, if there was one.
    pub error: Option<(String, String)>,
}

/// Counts what a server answers.
#[derive(Debug)]
pub(super) struct Replies {
    protocol: Protocol,
    buffer: Vec<u8>,
    started: bool,
    /// Requests it has answered to the end.
    pub(super) answered: u64,
    /// Of the request being answered.
    pub(super) reply: Reply,
}

impl Replies {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, buffer: Vec::new(), started: false, answered: 0, reply: Reply::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.protocol == Protocol::Any {
            self.answered += 1;
            return;
        }
        self.buffer.extend_from_slice(bytes);
        loop {
            // The answer to a wish for TLS has neither length nor content.
            if !self.started && matches!(self.buffer.first(), Some(b'N' | b'G')) {
                self.buffer.remove(0);
            }
            let Some(frame) = take_frame(&mut self.buffer, true) else { break };
            self.started = true;
            match frame[0] {
                b'Z' => self.answered += 1,
                b'C' => self.reply.tags.push(text(&frame[5..])),
                b'E' => {
                    let fields = frame[5..].split(|byte| *byte == 0).filter(|field| !field.is_empty());
                    let fields: HashMap<u8, String> =
                        fields.map(|field| (field[0], text(&field[1..]))).collect();
                    let field = |name| fields.get(&name).cloned().unwrap_or_default();
                    self.reply.error = Some((field(b'C'), field(b'M')));
                }
                _ => {}
            }
        }
    }
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The next whole frame: its type, when it has one, a length that counts itself, and the rest.
fn take_frame(buffer: &mut Vec<u8>, has_type: bool) -> Option<Vec<u8>> {
    let start = usize::from(has_type);
    if buffer.len() < start + 4 {
        return None;
    }
    let end = start + number(&buffer[start..]) as usize;
    if buffer.len() < end {
        return None;
    }
    Some(buffer.drain(..end).collect())
}
