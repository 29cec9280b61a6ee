//! Writes to Redis behind everybody's back: what waits goes out together, so the changes of one batch of the store, whose
//! callers are answered together, travel together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisResult, Script};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::entry::mark_text;
use super::redis::Shared;
use super::shelf::Kept;
use crate::domain::ids::OrderId;
use crate::redis_link::Connection;

/// Notes that go out together, at most.
const TOGETHER: usize = 256;
/// How long their answers may take, in times of what a read waits.
const PATIENCE: u32 = 10;
/// How often the namespace is looked at when nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often this node puts another namespace in the place of the one that could not be told of a change, at most. Until then
/// it shows nothing unasked; many losses cost one change, and the copies of the others are of use for as long.
const CHANGE_EVERY: Duration = Duration::from_secs(5);

/// A copy takes the place of one of an older version, or of one of the same version that was changed or the newest at an earlier
/// time; of the same mark, they complete each other. Arguments: mark, time, tag of the time, glance, order (empty = none),
/// milliseconds to live, which are counted from the first copy of a mark: whoever confirms one does not prolong its life.
/// Answers whether the key is of this mark now.
const PUT: &str = r"
local function parts(mark)
    local version, changed = string.match(mark or '', '^(%d+)%-%w+%-(%d+)$')
    return tonumber(version or '0'), tonumber(changed or '0')
end
local known = redis.call('HMGET', KEYS[1], 'm', 't')
local version, changed = parts(ARGV[1])
local known_version, known_changed = parts(known[1])
local at, known_at = tonumber(ARGV[2]), tonumber(known[2] or '0') or 0
if known[1] ~= ARGV[1] then
    local is_newer = version > known_version
    if version == known_version then
        is_newer = changed > known_changed or (changed == known_changed and at > known_at)
    end
    if not is_newer then
        return 0
    end
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'm', ARGV[1], 't', ARGV[2], 'a', ARGV[3], 's', ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
elseif at > known_at or ARGV[5] ~= '' then
    -- Also an earlier time, where an order comes with it: the one that is there may be none that a node has noted.
    redis.call('HSET', KEYS[1], 't', ARGV[2], 'a', ARGV[3])
end
if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[1], 'd', ARGV[5])
end
return 1
";

/// What is to be written.
#[derive(Debug)]
pub(super) enum Note {
    Put {
        copy: Box<Kept>,
        /// It is of a change.
        replaces: bool,
    },
    Forget(OrderId),
}

impl Note {
    /// Whether somebody could find what is older than it need be if this is not written.
    pub(super) fn is_owed(&self) -> bool {
        match self {
            Self::Put { replaces, .. } => *replaces,
            Self::Forget(_) => true,
        }
    }
}

fn count(outcome: &'static str, notes: usize) {
    metrics::counter!("order_cache_writes_total", "outcome" => outcome).increment(notes as u64);
}

/// A note will not be written.
pub(super) fn lost(shared: &Shared, is_owed: bool) {
    count("lost", 1);
    if is_owed {
        shared.owes.store(true, Ordering::Release);
    }
}

/// Writes until the last sender is gone.
pub(super) async fn run(shared: Arc<Shared>, mut notes: mpsc::Receiver<Note>) {
    let mut writer = Writer { shared, put: Script::new(PUT), may_change_at: Instant::now() };
    let mut batch = Vec::with_capacity(TOGETHER);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let looks = tokio::select! {
            taken = notes.recv_many(&mut batch, TOGETHER) => {
                if taken == 0 {
                    return;
                }
                false
            }
            _ = tick.tick() => true,
        };
        if writer.write(&batch, looks).await.is_none() {
            for note in &batch {
                lost(&writer.shared, note.is_owed());
            }
        }
        batch.clear();
    }
}

struct Writer {
    shared: Arc<Shared>,
    put: Script,
    /// When the namespace may be changed again.
    may_change_at: Instant,
}

impl Writer {
    /// Writes a batch; none = it may not have been written.
    async fn write(&mut self, batch: &[Note], looks: bool) -> Option<()> {
        let shared = &*self.shared;
        let Some(link) = shared.link.connection() else {
            // It may be another Redis that comes back.
            shared.namespace.store(0, Ordering::Release);
            return None;
        };
        let patience = shared.patience.saturating_mul(PATIENCE);
        let now = Instant::now();
        if shared.owes.load(Ordering::Acquire) && now >= self.may_change_at {
            self.may_change_at = now.checked_add(CHANGE_EVERY).unwrap_or(now);
            let namespace = new_namespace();
            let mut asked = redis::cmd("SET");
            asked.arg(shared.namespace_key()).arg(format!("{namespace:016x}"));
            let mut connection = Connection::clone(&link);
            shared.link.heard(&link, patience, asked.query_async::<()>(&mut connection)).await.ok()?;
            // In this order: nobody finds anything in the old one meanwhile, and what is lost from now on is owed anew.
            shared.namespace.store(0, Ordering::Release);
            shared.owes.store(false, Ordering::Release);
            shared.namespace.store(namespace, Ordering::Release);
            metrics::counter!("order_cache_namespace_changes_total").increment(1);
            tracing::info!(
                "Redis could not be told of changes; what it knew before is not looked at any more"
            );
        } else if looks || shared.namespace.load(Ordering::Acquire) == 0 {
            shared.namespace.store(namespace(shared, &link, patience).await?, Ordering::Release);
        }
        if batch.is_empty() {
            return Some(());
        }
        let namespace = shared.namespace.load(Ordering::Acquire);
        let sent = batch.iter().map(|note| {
            let connection = Connection::clone(&link);
            send(shared, &self.put, namespace, note, connection)
        });
        let written = shared.link.heard_each(&link, patience, sent).await;
        let of = |what| written.iter().filter(|written| **written == Some(what)).count();
        count("stored", of(true));
        count("older", of(false));
        // Of one that was not written, the others are not to blame.
        for (note, written) in batch.iter().zip(&written) {
            if written.is_none() {
                lost(shared, note.is_owed());
            }
        }
        Some(())
    }
}

async fn send(
    shared: &Shared,
    put: &Script,
    namespace: u64,
    note: &Note,
    mut connection: Connection,
) -> RedisResult<bool> {
    match note {
        Note::Put { copy, .. } => {
            let mark = mark_text(&copy.mark);
            let order = copy.order.as_ref().and_then(|order| shared.seal.order(order, &mark));
            let Some(glance) = shared.seal.glance(&copy.glance, &mark) else { return Ok(false) };
            let id = copy.glance.id;
            let time = shared.seal.time(id, &mark, copy.at);
            let mut call = put.key(shared.key(namespace, id));
            call.arg(mark).arg(copy.at).arg(time).arg(glance);
            call.arg(order.unwrap_or_default());
            call.arg(u64::try_from(shared.keep_for.as_millis()).unwrap_or(u64::MAX));
            call.invoke_async(&mut connection).await
        }
        Note::Forget(id) => {
            let mut command = redis::cmd("DEL");
            command.arg(shared.key(namespace, *id));
            command.query_async::<()>(&mut connection).await.map(|()| true)
        }
    }
}

/// The namespace that Redis has, or is given if it has none, as after it was flushed.
async fn namespace(shared: &Shared, link: &Arc<Connection>, patience: Duration) -> Option<u64> {
    let new = format!("{:016x}", new_namespace());
    let (mut give, mut get) = (redis::cmd("SET"), redis::cmd("GET"));
    give.arg(shared.namespace_key()).arg(new).arg("NX");
    get.arg(shared.namespace_key());
    let mut connection = Connection::clone(link);
    let asked = async {
        give.query_async::<Option<String>>(&mut connection).await?;
        get.query_async::<Option<String>>(&mut connection).await
    };
    let told = shared.link.heard(link, patience, asked).await.ok()?;
    let namespace = u64::from_str_radix(&told?, 16).ok().filter(|namespace| *namespace > 0);
    if namespace.is_none() {
        // Whatever stands there is none of ours.
        shared.owes.store(true, Ordering::Release);
    }
    namespace
}

fn new_namespace() -> u64 {
    Uuid::new_v4().as_u64_pair().1 | 1
}
