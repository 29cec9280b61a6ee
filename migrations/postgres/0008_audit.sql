SET LOCAL lock_timeout = '10s';

-- As what and why somebody did something, and the chain over an order's events. All of it is null in rows that are there,
-- so no table is rewritten.
ALTER TABLE order_events ADD COLUMN role TEXT;
ALTER TABLE order_events ADD COLUMN reason TEXT;
-- SHA-256 over this row and the hash of the event before it; null in events from before there was a chain.
ALTER TABLE order_events ADD COLUMN hash BYTEA;

-- Sagas pass on to their events as what and why they were asked for.
ALTER TABLE sagas ADD COLUMN role TEXT;
ALTER TABLE sagas ADD COLUMN reason TEXT;

-- The hash of the order's last event, which the next one goes on from.
ALTER TABLE orders ADD COLUMN event_hash BYTEA;
