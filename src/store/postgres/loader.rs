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

use super::fault::{is_of_the_data, told};
use super::pool::{Pool, late};
use super::read::{arguments, unavailable};
use crate::domain::ids::OrderId;
use crate::ports::store::StoreError;

/// At most so many orders in one statement: more would make the first of them wait for the last one's rows.
const TOGETHER: usize = 32;
/// Questions that may wait; who comes then waits to be let in, as long as a read may take.
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

async fn serve(pool: &Arc<Pool>, statement: &SqlStr, wanted: &tokio::sync::Mutex<mpsc::Receiver<Wanted>>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    loop {
        // One waits for the next question, the others for their turn to wait.
        if wanted.lock().await.recv_many(&mut batch, TOGETHER).await == 0 {
            return;
        }
        // Whoever went away needs no answer.
        batch.retain(|one| !one.answer.is_closed());
        let mut ids: Vec<OrderId> = batch.iter().map(|one| one.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = ask(pool, statement, ids).await;
        for Wanted { id, answer } in batch.drain(..) {
            let row = match found.get(&id) {
                Some(row) => row.clone(),
                None => Ok(None),
            };
            // Whoever went away meanwhile needs none.
            let _ = answer.send(row);
        }
    }
}

/// What is stored of these orders; nothing for those that are not there. What cannot be read of one order does not keep the
/// others from being read: they are asked for one by one then.
async fn ask(pool: &Arc<Pool>, statement: &SqlStr, mut ids: Vec<OrderId>) -> HashMap<OrderId, Answer> {
    let mut answers = HashMap::with_capacity(ids.len());
    if ids.is_empty() {
        return answers;
    }
    match rows(pool, statement, &ids).await {
        Ok(found) => answers.extend(found.into_iter().map(|(id, row)| (id, Ok(Some(row))))),
        Err(Trouble::OfTheData(_)) if ids.len() > 1 => {
            for id in ids.drain(..) {
                answers.extend(Box::pin(ask(pool, statement, vec![id])).await);
            }
        }
        Err(trouble) => {
            let error = |order| match &trouble {
                Trouble::OfTheData(what) => StoreError::Corrupt { order, what: what.clone() },
                Trouble::Other(error) => error.clone(),
            };
            answers.extend(ids.into_iter().map(|id| (id, Err(error(id)))));
        }
    }
    answers
}

/// Why rows were not had.
enum Trouble {
    OfTheData(String),
    Other(StoreError),
}

async fn rows(
    pool: &Arc<Pool>,
    statement: &SqlStr,
    ids: &[OrderId],
) -> Result<Vec<(OrderId, Arc<PgRow>)>, Trouble> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let arguments = arguments(|args| args.add(ids)).map_err(Trouble::Other)?;
    let (pool, statement) = (Arc::clone(pool), statement.clone());
    // In a task of its own: should it panic, the others that are asked for later are still answered.
    let asked = tokio::spawn(async move { pool.asked(statement, arguments).await });
    let asked = asked.await.map_err(|error| Trouble::Other(StoreError::Unavailable(error.to_string())))?;
    let rows = asked.map_err(|error| match error {
        Some(error) if is_of_the_data(&error) => Trouble::OfTheData(told(&error)),
        Some(error) => Trouble::Other(unavailable(&error)),
        None => Trouble::Other(late()),
    })?;
    let named = |row: PgRow| Ok((OrderId(row.try_get::<Uuid, _>("id")?), Arc::new(row)));
    rows.into_iter()
        .map(named)
        .collect::<Result<_, sqlx::Error>>()
        .map_err(|error| Trouble::Other(unavailable(&error)))
}
