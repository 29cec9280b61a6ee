//! The rows that belong to an order: lines, addresses, history, ledger, shipments, requests, events and sagas.

use sqlx::sqlite::SqliteConnection;

use super::statement::Statement;
use crate::ports::store::Commit;
use crate::store::bind::Bind;
use crate::store::fields::{
    ADDRESSES, EVENTS, HISTORY, ITEMS, LEDGER, REQUESTS, SAGAS, SHIPMENTS, TIMERS, Table, bind_address,
    bind_entry, bind_event, bind_history, bind_item, bind_request, bind_saga, bind_shipment, bind_timer,
};
use crate::store::written::Written;

pub(super) struct Children {
    drop_items: Statement,
    items: Statement,
    drop_addresses: Statement,
    addresses: Statement,
    history: Statement,
    ledger: Statement,
    shipments: Statement,
    requests: Statement,
    events: Statement,
    sagas: Statement,
    timers: Statement,
}

impl Children {
    pub(super) fn new() -> Self {
        let insert = |table: &Table| Statement::insert(table.name, table.columns, "");
        let upsert = |table: &Table| Statement::insert(table.name, table.columns, &table.or_update());
        Self {
            drop_items: Statement::new("DELETE FROM order_items WHERE order_id IN (", "?", ")"),
            items: insert(&ITEMS),
            drop_addresses: Statement::new("DELETE FROM order_addresses WHERE order_id IN (", "?", ")"),
            addresses: insert(&ADDRESSES),
            history: insert(&HISTORY),
            ledger: insert(&LEDGER),
            shipments: upsert(&SHIPMENTS),
            requests: insert(&REQUESTS),
            events: insert(&EVENTS),
            sagas: upsert(&SAGAS),
            timers: upsert(&TIMERS),
        }
    }

    /// Writes what `commits` bring besides the order's own row.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<(), sqlx::Error> {
        let mut rows = Written::of(commits);
        self.drop_items.run(connection, &rows.replaced_items, |args, id| args.id(id.0)).await?;
        self.items.run(connection, &rows.items, bind_item).await?;
        self.drop_addresses.run(connection, &rows.replaced_addresses, |args, id| args.id(id.0)).await?;
        self.addresses.run(connection, &rows.addresses, bind_address).await?;
        self.shipments.run(connection, &rows.shipments, bind_shipment).await?;
        self.ledger.run(connection, &rows.ledger, bind_entry).await?;
        self.requests.run(connection, &rows.requests, bind_request).await?;
        self.events.run(connection, &rows.events, bind_event).await?;
        self.history.run(connection, &rows.history, bind_history).await?;
        self.timers.run(connection, &rows.timers, bind_timer).await?;
        rows.sagas.append(&mut rows.new_sagas);
        self.sagas.run(connection, &rows.sagas, |args, saga| bind_saga(args, saga)).await
    }
}
