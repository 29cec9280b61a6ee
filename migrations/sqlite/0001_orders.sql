-- The tables of one node's order store.
--
-- Amounts are decimal text, exactly as counted (SQLite has no decimal type). Times are microseconds since
-- 1970-01-01 UTC. UUIDs are 16 bytes. Tables are STRICT: a value of another type is an error, not a surprise later.
--
-- There are no foreign keys and no cascades. Every row is written by the one transaction that also passes the guard on
-- its order's version and owner, and nothing is ever deleted, so a foreign key could only find what cannot happen;
-- it would cost a look-up for each child row. Child rows are clustered by order: (order_id, ...) is their key and they
-- have no rowid, so that an order's rows lie side by side and each row costs one tree instead of two.

-- "ORDS": tells our files from those of other programs.
PRAGMA application_id = 1330791507;

CREATE TABLE orders (
    id                       BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    slot                     INTEGER NOT NULL,
    user_id                  BLOB    NOT NULL,
    order_number             TEXT    NOT NULL,
    currency                 TEXT    NOT NULL,
    payment_method           TEXT    NOT NULL,
    shipping_method          TEXT    NOT NULL,
    metadata                 TEXT    NOT NULL,  -- JSON object
    request_hash             BLOB    NOT NULL,
    created_at               INTEGER NOT NULL,
    -- All above never change.
    version                  INTEGER NOT NULL,
    owner_epoch              INTEGER NOT NULL,
    owner_incarnation        INTEGER NOT NULL,
    status                   TEXT    NOT NULL,
    total_amount             TEXT    NOT NULL,
    subtotal                 TEXT    NOT NULL,
    tax_amount               TEXT    NOT NULL,
    shipping_amount          TEXT    NOT NULL,
    discount_amount          TEXT    NOT NULL,
    payment_status           TEXT    NOT NULL,
    notes                    TEXT    NOT NULL,
    coupon_code              TEXT,
    hold                     TEXT,              -- JSON object
    cancel_reason            TEXT,
    inventory_reservation_id TEXT,
    reservation_state        TEXT    NOT NULL,
    reservation_key          TEXT,
    saga_no                  INTEGER NOT NULL,
    event_seq                INTEGER NOT NULL,
    updated_at               INTEGER NOT NULL,
    completed_at             INTEGER,
    cancelled_at             INTEGER
) STRICT;

CREATE UNIQUE INDEX orders_number ON orders (order_number);
-- The three ways to list; read in either direction, so newest first needs no index of its own.
CREATE INDEX orders_by_user ON orders (user_id, created_at, id);
CREATE INDEX orders_by_time ON orders (created_at, id);
CREATE INDEX orders_by_status ON orders (status, created_at, id);

CREATE TABLE order_items (
    order_id        BLOB    NOT NULL,
    id              BLOB    NOT NULL,
    position        INTEGER NOT NULL,
    product_id      BLOB    NOT NULL,
    variant_id      BLOB,
    sku             TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    tax_class       TEXT    NOT NULL,
    quantity        INTEGER NOT NULL,
    unit_price      TEXT    NOT NULL,
    subtotal        TEXT    NOT NULL,
    discount_amount TEXT    NOT NULL,
    tax_amount      TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (order_id, id)
) STRICT, WITHOUT ROWID;

-- The id is a hash of order and type, so the key also says: one address of each type.
CREATE TABLE order_addresses (
    order_id      BLOB    NOT NULL,
    id            BLOB    NOT NULL,
    address_type  TEXT    NOT NULL,
    first_name    TEXT    NOT NULL,
    last_name     TEXT    NOT NULL,
    address_line1 TEXT    NOT NULL,
    address_line2 TEXT,
    city          TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    postal_code   TEXT    NOT NULL,
    country       TEXT    NOT NULL,
    phone         TEXT,
    email         TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (order_id, id)
) STRICT, WITHOUT ROWID;

-- One row for each status the order had. `seq` is the event it comes from. `created_by` is the name of the principal;
-- principals are not always UUIDs, so it is text.
CREATE TABLE order_status_history (
    order_id   BLOB    NOT NULL,
    id         BLOB    NOT NULL,
    seq        INTEGER NOT NULL,
    status     TEXT    NOT NULL,
    notes      TEXT    NOT NULL,
    created_by TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (order_id, id)
) STRICT, WITHOUT ROWID;

-- The ledger: one row an entry, `status` is what is known after it. Entries with one `call_key` tell one call's story.
CREATE TABLE order_payment_transactions (
    order_id         BLOB    NOT NULL,
    id               BLOB    NOT NULL,
    entry_no         INTEGER NOT NULL,
    kind             TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    call_key         TEXT    NOT NULL,
    transaction_id   TEXT    NOT NULL,
    payment_method   TEXT    NOT NULL,
    amount           TEXT    NOT NULL,
    currency         TEXT    NOT NULL,
    code             TEXT,
    gateway_response TEXT,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (order_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE shipments (
    order_id        BLOB    NOT NULL,
    id              BLOB    NOT NULL,
    position        INTEGER NOT NULL,
    call_key        TEXT,
    state           TEXT    NOT NULL,
    carrier         TEXT    NOT NULL,
    tracking_number TEXT    NOT NULL,
    label_url       TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (order_id, id)
) STRICT, WITHOUT ROWID;

-- Request ids that changed the order, by the version that answered them.
CREATE TABLE order_requests (
    order_id   BLOB    NOT NULL,
    request_id TEXT    NOT NULL,
    hash       BLOB    NOT NULL,
    saga_no    INTEGER,
    version    INTEGER NOT NULL,
    PRIMARY KEY (order_id, request_id)
) STRICT, WITHOUT ROWID;

-- Audit trail, watch stream and outbox in one.
CREATE TABLE order_events (
    order_id   BLOB    NOT NULL,
    seq        INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    type       TEXT    NOT NULL,
    payload    TEXT    NOT NULL,  -- JSON object
    principal  TEXT    NOT NULL,
    request_id TEXT,
    at         INTEGER NOT NULL,
    PRIMARY KEY (order_id, seq)
) STRICT, WITHOUT ROWID;

-- One row a saga; at most one of an order is not settled. `payment_token` is secret and is cleared as soon as the
-- charge is settled. `due_at` is the next call's time, or the saga's start while nothing is waited for.
CREATE TABLE sagas (
    order_id      BLOB    NOT NULL,
    saga_no       INTEGER NOT NULL,
    kind          TEXT    NOT NULL,
    direction     TEXT    NOT NULL,
    step          TEXT,
    tries         INTEGER NOT NULL,
    resend        INTEGER NOT NULL,
    turn          TEXT,              -- JSON object
    next_at       INTEGER,
    due_at        INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    sent_at       INTEGER,
    attention     TEXT,
    last_error    TEXT,
    failure       TEXT,              -- JSON object
    settled       INTEGER NOT NULL,
    notes         TEXT    NOT NULL,
    principal     TEXT    NOT NULL,
    request_id    TEXT    NOT NULL,
    trace_parent  TEXT,
    payment_token TEXT,
    PRIMARY KEY (order_id, saga_no)
) STRICT, WITHOUT ROWID;

-- What is left to do, by due time. Settled sagas, nearly all of them, are not in it.
CREATE INDEX sagas_due ON sagas (due_at, order_id) WHERE settled = 0;

CREATE TABLE coupon_counters (
    code TEXT    NOT NULL PRIMARY KEY,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who used a coupon: makes claiming twice and giving back twice harmless.
CREATE TABLE coupon_claims (
    code     TEXT NOT NULL,
    order_id BLOB NOT NULL,
    PRIMARY KEY (code, order_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER order_events_keep BEFORE UPDATE ON order_events
BEGIN SELECT RAISE(ABORT, 'order_events is append-only'); END;
CREATE TRIGGER order_events_hold BEFORE DELETE ON order_events
BEGIN SELECT RAISE(ABORT, 'order_events is append-only'); END;
CREATE TRIGGER order_status_history_keep BEFORE UPDATE ON order_status_history
BEGIN SELECT RAISE(ABORT, 'order_status_history is append-only'); END;
CREATE TRIGGER order_status_history_hold BEFORE DELETE ON order_status_history
BEGIN SELECT RAISE(ABORT, 'order_status_history is append-only'); END;
CREATE TRIGGER order_payment_transactions_keep BEFORE UPDATE ON order_payment_transactions
BEGIN SELECT RAISE(ABORT, 'order_payment_transactions is append-only'); END;
CREATE TRIGGER order_payment_transactions_hold BEFORE DELETE ON order_payment_transactions
BEGIN SELECT RAISE(ABORT, 'order_payment_transactions is append-only'); END;
