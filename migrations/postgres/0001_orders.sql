-- The tables of the order store on Postgres 14 and later.
--
-- Columns that never change stand first and those that change with every step last: an update's log record leaves out
-- what the old and the new row have in common at both ends. Text has no length limits here, those are the service's
-- (config `limits`), and amounts have the four digits that the finest currency needs.
--
-- There are no foreign keys and no cascades. Every row is written by the one statement that also passes the guard on its
-- order's version and owner, and nothing is ever deleted, so a foreign key could only find what cannot happen; it would
-- cost a look-up and a row lock for each child row.
--
-- Indexes are few, because each one is a page more for every new order. Rows that are rewritten leave room on their page
-- (fillfactor), so that a new version is found from the old one and no index is touched (HOT), unless the status changes.

CREATE TABLE orders (
    id                       UUID          NOT NULL,
    user_id                  UUID          NOT NULL,
    created_at               TIMESTAMPTZ   NOT NULL,
    slot                     SMALLINT      NOT NULL,
    order_number             TEXT          NOT NULL,
    currency                 TEXT          NOT NULL,
    payment_method           TEXT          NOT NULL,
    shipping_method          TEXT          NOT NULL,
    request_hash             BYTEA         NOT NULL,
    metadata                 JSON          NOT NULL,
    -- All above never change.
    total_amount             NUMERIC(19,4) NOT NULL,
    subtotal                 NUMERIC(19,4) NOT NULL,
    tax_amount               NUMERIC(19,4) NOT NULL,
    shipping_amount          NUMERIC(19,4) NOT NULL,
    discount_amount          NUMERIC(19,4) NOT NULL,
    notes                    TEXT          NOT NULL,
    coupon_code              TEXT,
    hold                     JSON,
    cancel_reason            TEXT,
    reservation_key          TEXT,
    inventory_reservation_id TEXT,
    reservation_state        TEXT          NOT NULL,
    status                   TEXT          NOT NULL,
    payment_status           TEXT          NOT NULL,
    owner_epoch              BIGINT        NOT NULL,
    owner_incarnation        BIGINT        NOT NULL,
    version                  BIGINT        NOT NULL,
    event_seq                BIGINT        NOT NULL,
    saga_no                  INTEGER       NOT NULL,
    updated_at               TIMESTAMPTZ   NOT NULL,
    completed_at             TIMESTAMPTZ,
    cancelled_at             TIMESTAMPTZ,
    PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX orders_number ON orders (order_number);
-- The two ways to list, each read in either direction. All orders by time are the statuses merged.
CREATE INDEX orders_by_user ON orders (user_id, created_at, id);
CREATE INDEX orders_by_status ON orders (status, created_at, id);

CREATE TABLE order_items (
    order_id        UUID          NOT NULL,
    id              UUID          NOT NULL,
    product_id      UUID          NOT NULL,
    variant_id      UUID,
    created_at      TIMESTAMPTZ   NOT NULL,
    updated_at      TIMESTAMPTZ   NOT NULL,
    position        INTEGER       NOT NULL,
    quantity        INTEGER       NOT NULL,
    sku             TEXT          NOT NULL,
    name            TEXT          NOT NULL,
    tax_class       TEXT          NOT NULL,
    unit_price      NUMERIC(19,4) NOT NULL,
    subtotal        NUMERIC(19,4) NOT NULL,
    discount_amount NUMERIC(19,4) NOT NULL,
    tax_amount      NUMERIC(19,4) NOT NULL,
    PRIMARY KEY (order_id, id)
);

-- The id is a hash of order and type, so the key also says: one address of each type.
CREATE TABLE order_addresses (
    order_id      UUID        NOT NULL,
    id            UUID        NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL,
    address_type  TEXT        NOT NULL,
    first_name    TEXT        NOT NULL,
    last_name     TEXT        NOT NULL,
    address_line1 TEXT        NOT NULL,
    address_line2 TEXT,
    city          TEXT        NOT NULL,
    state         TEXT        NOT NULL,
    postal_code   TEXT        NOT NULL,
    country       TEXT        NOT NULL,
    phone         TEXT,
    email         TEXT,
    PRIMARY KEY (order_id, id)
);

-- One row for each status the order had. `seq` is the event it comes from. `created_by` is the name of the principal;
-- principals are not always UUIDs, so it is text.
CREATE TABLE order_status_history (
    order_id   UUID        NOT NULL,
    id         UUID        NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    seq        BIGINT      NOT NULL,
    status     TEXT        NOT NULL,
    notes      TEXT        NOT NULL,
    created_by TEXT        NOT NULL,
    PRIMARY KEY (order_id, id)
);

-- The ledger: one row an entry, `status` is what is known after it. Entries with one `call_key` tell one call's story.
CREATE TABLE order_payment_transactions (
    order_id         UUID          NOT NULL,
    id               UUID          NOT NULL,
    created_at       TIMESTAMPTZ   NOT NULL,
    updated_at       TIMESTAMPTZ   NOT NULL,
    entry_no         INTEGER       NOT NULL,
    kind             TEXT          NOT NULL,
    status           TEXT          NOT NULL,
    call_key         TEXT          NOT NULL,
    transaction_id   TEXT          NOT NULL,
    payment_method   TEXT          NOT NULL,
    amount           NUMERIC(19,4) NOT NULL,
    currency         TEXT          NOT NULL,
    code             TEXT,
    gateway_response TEXT,
    PRIMARY KEY (order_id, id)
);

CREATE TABLE shipments (
    order_id        UUID        NOT NULL,
    id              UUID        NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    position        INTEGER     NOT NULL,
    call_key        TEXT,
    state           TEXT        NOT NULL,
    carrier         TEXT        NOT NULL,
    tracking_number TEXT        NOT NULL,
    label_url       TEXT        NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (order_id, id)
) WITH (fillfactor = 80);

-- Request ids that changed the order, by the version that answered them.
CREATE TABLE order_requests (
    order_id   UUID    NOT NULL,
    version    BIGINT  NOT NULL,
    saga_no    INTEGER,
    request_id TEXT    NOT NULL,
    hash       BYTEA   NOT NULL,
    PRIMARY KEY (order_id, request_id)
);

-- Audit trail, watch stream and outbox in one.
CREATE TABLE order_events (
    order_id   UUID        NOT NULL,
    seq        BIGINT      NOT NULL,
    version    BIGINT      NOT NULL,
    at         TIMESTAMPTZ NOT NULL,
    type       TEXT        NOT NULL,
    payload    JSON        NOT NULL,
    principal  TEXT        NOT NULL,
    request_id TEXT,
    PRIMARY KEY (order_id, seq)
);

-- One row a saga; at most one of an order is not settled. `payment_token` is secret and is cleared as soon as the
-- charge is settled. `due_at` is the next call's time, or the saga's start while nothing is waited for.
CREATE TABLE sagas (
    order_id      UUID        NOT NULL,
    saga_no       INTEGER     NOT NULL,
    kind          TEXT        NOT NULL,
    started_at    TIMESTAMPTZ NOT NULL,
    principal     TEXT        NOT NULL,
    request_id    TEXT        NOT NULL,
    trace_parent  TEXT,
    notes         TEXT        NOT NULL,
    direction     TEXT        NOT NULL,
    step          TEXT,
    tries         INTEGER     NOT NULL,
    resend        BOOLEAN     NOT NULL,
    settled       BOOLEAN     NOT NULL,
    due_at        TIMESTAMPTZ NOT NULL,
    next_at       TIMESTAMPTZ,
    sent_at       TIMESTAMPTZ,
    turn          JSON,
    attention     TEXT,
    last_error    TEXT,
    failure       JSON,
    payment_token TEXT,
    PRIMARY KEY (order_id, saga_no)
) WITH (fillfactor = 50);

-- What is left to do, by due time. Settled sagas, nearly all of them, are not in it.
CREATE INDEX sagas_due ON sagas (due_at, order_id) WHERE NOT settled;

-- Uses of coupons that have a limit. A coupon without one has no row here, so its orders do not wait for each other.
CREATE TABLE coupon_counters (
    code TEXT   NOT NULL PRIMARY KEY,
    used BIGINT NOT NULL
) WITH (fillfactor = 50);

-- Who used a coupon: makes claiming twice and giving back twice harmless. By code first, so that the uses of one coupon
-- are counted without reading those of all others.
CREATE TABLE coupon_claims (
    order_id UUID NOT NULL,
    code     TEXT NOT NULL,
    PRIMARY KEY (code, order_id)
);

-- Orders of which more was acknowledged than this database knows: somebody has to look before they go on.
CREATE TABLE order_quarantines (
    order_id       UUID        NOT NULL PRIMARY KEY,
    known_version  BIGINT      NOT NULL,
    stored_version BIGINT      NOT NULL,
    reason         TEXT        NOT NULL,
    since          TIMESTAMPTZ NOT NULL
);

-- A row a writer rewrites when it needs a durable point behind an earlier commit.
CREATE TABLE commit_marks (
    lane INTEGER     NOT NULL PRIMARY KEY,
    at   TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION order_store_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

CREATE TRIGGER order_events_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON order_events
FOR EACH STATEMENT EXECUTE FUNCTION order_store_append_only();
CREATE TRIGGER order_status_history_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON order_status_history
FOR EACH STATEMENT EXECUTE FUNCTION order_store_append_only();
CREATE TRIGGER order_payment_transactions_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON order_payment_transactions
FOR EACH STATEMENT EXECUTE FUNCTION order_store_append_only();
