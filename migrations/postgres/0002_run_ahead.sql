-- A creation may make its calls without storing each before the next.
SET LOCAL lock_timeout = '10s';

-- Whether more may have been called than is stored. A program that does not know this column must not drive such a saga:
-- it would not ask for a charge that nobody recorded. It does not open a database that has this migration. False for
-- every saga that is there.
ALTER TABLE sagas ADD COLUMN ahead BOOLEAN NOT NULL DEFAULT false;

-- The request that created the order, which is one row less in order_requests. Its hash is request_hash. Orders that are
-- there have it in order_requests.
ALTER TABLE orders ADD COLUMN request_id TEXT;
