//! Loading orders by id: what is asked for while all connections are busy is asked for together.
//!
//! A lone question is asked at once. Under load one statement answers many, so each costs a part of a round trip, and the
//! server starts one statement for all of them. A question waits in no batch that was sent before it came, so the answer
//! is never older than the question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Arguments, Row, SqlStr};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::pool::{Pool, late};
use super::read::{arguments, unavailable};
use crate::domain::ids::OrderId;
use crate::ports::store::StoreError;

/// At most so many orders in one statement: more would make the first of them wait for the last one's rows.
const TOGETHER: usize = 32;
/// Questions that may wait, for each statement under way; who comes then waits to be let in, as long as a read may take.
const WAITING: usize = 1_024;

type Answer = Result<Option<Arc<PgRow>>, StoreError>;

#[derive(Debug)]
struct Wanted {
    id: OrderId,
    answer: oneshot::Sender<Answer>,
}

/// The way to the connections.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    queue: mpsc::Sender<Wanted>,
    timeout: Duration,
}

impl Loader {
    /// Starts to answer, with `statement` over an array of ids, on some of the pool's connections. Ends when the last
    /// handle is dropped.
    pub(super) fn start(pool: &Arc<Pool>, statement: &SqlStr, statements: usize) -> Self {
        let (queue, wanted) = mpsc::channel(WAITING);
        let wanted = Arc::new(tokio::sync::Mutex::new(wanted));
        for _ in 0..statements.max(1) {
            let (pool, statement, wanted) = (Arc::clone(pool), statement.clone(), Arc::clone(&wanted));
            tokio::spawn(async move { serve(&pool, &statement, &wanted).await });
        }
        Self { queue, timeout: pool.timeout() }
    }

    /// The row of an order, if there is one. Dropping the future takes no connection with it.
    pub(super) async fn load(&self, id: OrderId) -> Answer {
        let closed = || StoreError::Unavailable(String::from("the store is closed"));
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.queue.send(Wanted { id, answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or_else(|_elapsed| Err(late()))
    }
}

async fn serve(pool: &Pool, statement: &SqlStr, wanted: &tokio::sync::Mutex<mpsc::Receiver<Wanted>>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    loop {
        // One waits for the next question, the others for their turn to wait.
        if wanted.lock().await.recv_many(&mut batch, TOGETHER).await == 0 {
            return;
        }
        // Whoever went away needs no answer.
        batch.retain(|one| !one.answer.is_closed());
        let mut ids: Vec<Uuid> = batch.iter().map(|one| one.id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let asked = async {
            let rows = pool.rows(statement.clone(), arguments(|args| args.add(ids))?).await?;
            let mut found = HashMap::with_capacity(rows.len());
            for row in rows {
                let id = row.try_get::<Uuid, _>("id").map_err(|error| unavailable(&error))?;
                found.insert(id, Arc::new(row));
            }
            Ok(found)
        };
        let found: Result<HashMap<Uuid, Arc<PgRow>>, StoreError> = asked.await;
        for Wanted { id, answer } in batch.drain(..) {
            let row = found.as_ref().map(|found| found.get(&id.0).cloned()).map_err(Clone::clone);
            // Whoever went away meanwhile needs none.
            let _ = answer.send(row);
        }
    }
}
