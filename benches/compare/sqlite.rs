//! What SQLite alone does: the rows of settled orders, with two durable points for each batch.

use std::path::Path;
use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use uuid::Uuid;

/// Orders of a batch.
pub const BATCH: usize = 64;

/// Two transactions. The rows are those that the service writes for a settled order.
const FIRST: &[&str] = &[
    "INSERT INTO orders (id, slot, user_id, order_number, currency, payment_method, shipping_method, metadata, request_hash, request_id, created_at, version, owner_epoch, owner_incarnation, status, total_amount, subtotal, tax_amount, shipping_amount, discount_amount, payment_status, notes, coupon_code, reservation_state, reservation_key, saga_no, event_seq, updated_at) \
     SELECT id, 1034, x'123e4567e89b12d3a456426614174000', 'ORD-' || substr(hex(randomblob(8)), 1, 10), 'USD', 'CREDIT_CARD', 'STANDARD', '{}', x'0624e2c789e1f5fd89f95c4576c75b57', hex(id), 1795397279229768, 1, 1, 1795397279229768, 'PENDING', '93.17', '89.98', '7.19', '5.00', '9.00', 'PENDING', 'Please leave package at the door', 'SUMMER10', 'REQUESTED', hex(id) || '/1/reserve/1', 1, 3, 1795397279229768 FROM made",
    "INSERT INTO order_items (order_id, id, position, product_id, variant_id, sku, name, tax_class, quantity, unit_price, subtotal, discount_amount, tax_amount, created_at, updated_at) \
     SELECT id, randomblob(16), 0, x'123e4567e89b12d3a456426614174001', x'123e4567e89b12d3a456426614174002', 'PROD-001-VAR-002', 'Product Name - Variant Name', 'standard', 2, '44.99', '89.98', '9.00', '7.19', 1795397279229768, 1795397279229768 FROM made",
    "INSERT INTO order_addresses (order_id, id, address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, phone, email, created_at, updated_at) \
     SELECT id, randomblob(16), column1, 'John', 'Doe', '123 Main St', 'Apt 4B', 'New York', 'NY', '10001', 'US', '555-123-4567', 'john.doe@example.com', 1795397279229768, 1795397279229768 FROM made, (VALUES ('SHIPPING'), ('BILLING'))",
    "INSERT INTO coupon_claims (order_id, code) SELECT id, 'SUMMER10' FROM made",
    "INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) \
     SELECT id, column1, 1, column2, column3, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', 1795397279229768 FROM made, (VALUES \
     (1, 'order_created', '{\"type\":\"order_created\",\"order_number\":\"ORD-82NNC4Y5Z2\",\"currency\":\"USD\",\"totals\":{\"subtotal\":\"89.98\",\"discount\":\"9.00\",\"tax\":\"7.19\",\"shipping\":\"5.00\",\"total\":\"93.17\"},\"lines\":1}'), \
     (2, 'saga_started', '{\"type\":\"saga_started\",\"saga\":1,\"kind\":\"CREATE\"}'), \
     (3, 'stock_requested', '{\"type\":\"stock_requested\",\"key\":\"01a20604-aadf-7114-84da-414ab86b42fc/1/reserve/1\"}'))",
    "INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at) \
     SELECT id, randomblob(16), 1, 'PENDING', '', 'dev', 1795397279229768 FROM made",
    "INSERT INTO sagas (order_id, saga_no, kind, direction, step, tries, resend, due_at, started_at, settled, notes, principal, request_id, ahead) \
     SELECT id, 1, 'CREATE', 'FORWARD', 'RESERVE', 0, 0, 1795397279229768, 1795397279229768, 0, '', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', 1 FROM made",
];

const SECOND: &[&str] = &[
    "UPDATE orders SET version = 2, status = 'CONFIRMED', payment_status = 'PAID', reservation_state = 'COMMITTED', inventory_reservation_id = 'rsv_a2db2fb9f4508916be1d0c6880ac4e61', event_seq = 8, updated_at = 1795397279229769 \
     WHERE id IN (SELECT id FROM made) AND version = 1",
    "INSERT INTO order_payment_transactions (order_id, id, entry_no, kind, status, call_key, transaction_id, payment_method, amount, currency, gateway_response, created_at, updated_at) \
     SELECT id, randomblob(16), 0, 'CHARGE', 'SUCCEEDED', hex(id) || '/1/charge/1', 'txn_fcfe60554c578dc7aeed43c390dc2bb9', 'CREDIT_CARD', '93.17', 'USD', '{\"authorization_code\":\"FCFE60\",\"card_brand\":\"VISA\",\"last4\":\"4242\",\"avs_result\":\"Y\"}', 1795397279229768, 1795397279229768 FROM made",
    "INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) \
     SELECT id, column1, 2, column2, column3, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', 1795397279229768 FROM made, (VALUES \
     (4, 'stock_reserved', '{\"type\":\"stock_reserved\",\"reservation_id\":\"rsv_a2db2fb9f4508916be1d0c6880ac4e61\"}'), \
     (5, 'charged', '{\"type\":\"charged\",\"key\":\"01a20604-aadf-7114-84da-414ab86b42fc/1/charge/1\",\"transaction_id\":\"txn_fcfe60554c578dc7aeed43c390dc2bb9\",\"amount\":\"93.17\",\"gateway_response\":\"{\\\"authorization_code\\\":\\\"FCFE60\\\",\\\"card_brand\\\":\\\"VISA\\\",\\\"last4\\\":\\\"4242\\\",\\\"avs_result\\\":\\\"Y\\\"}\"}'), \
     (6, 'status_changed', '{\"type\":\"status_changed\",\"from\":\"PENDING\",\"to\":\"CONFIRMED\"}'), \
     (7, 'stock_committed', '{\"type\":\"stock_committed\",\"reservation_id\":\"rsv_a2db2fb9f4508916be1d0c6880ac4e61\"}'), \
     (8, 'saga_settled', '{\"type\":\"saga_settled\",\"saga\":1}'))",
    "INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at) \
     SELECT id, randomblob(16), 6, 'CONFIRMED', '', 'dev', 1795397279229768 FROM made",
    "UPDATE sagas SET step = NULL, sent_at = 1795397279229768, settled = 1, ahead = 0 WHERE order_id IN (SELECT id FROM made) AND saga_no = 1",
];

/// A file with the service's tables, and nobody else at work.
pub struct Bare(SqliteConnection);

impl Bare {
    /// Opens it as the service does.
    pub async fn open(file: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-64000")
            .pragma("temp_store", "memory")
            .pragma("wal_autocheckpoint", "8192")
            .pragma("journal_size_limit", "67108864");
        let mut connection = options.connect().await.unwrap();
        sqlx::query("CREATE TEMP TABLE made (id BLOB NOT NULL)").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    /// Writes so many orders; orders in a second.
    pub async fn run(&mut self, orders: usize) -> f64 {
        let start = Instant::now();
        let batches = orders.div_ceil(BATCH);
        for _ in 0..batches {
            self.batch().await;
        }
        (batches * BATCH) as f64 / start.elapsed().as_secs_f64()
    }

    async fn batch(&mut self) {
        let ids: Vec<String> = (0..BATCH).map(|_| Uuid::now_v7().simple().to_string()).collect();
        let ids = serde_json::to_string(&ids).unwrap();
        sqlx::query("DELETE FROM made").execute(&mut self.0).await.unwrap();
        let made = "INSERT INTO made SELECT unhex(value) FROM json_each(?)";
        sqlx::query(made).bind(ids).execute(&mut self.0).await.unwrap();
        for statements in [FIRST, SECOND] {
            let mut transaction = self.0.begin_with("BEGIN IMMEDIATE").await.unwrap();
            for statement in statements {
                let done = sqlx::query(*statement).execute(&mut *transaction).await.unwrap();
                assert!(done.rows_affected() >= BATCH as u64, "{statement}");
            }
            transaction.commit().await.unwrap();
        }
    }
}
