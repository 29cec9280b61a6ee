-- A creation may make its calls without storing each before the next.

-- Whether more may have been called than is stored. A program that does not know this column must not drive such a saga:
-- it would not ask for a charge that nobody recorded. It does not open a database that has this migration. 0 for
-- every saga that is there.
ALTER TABLE sagas ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0;

-- The request that created the order, which is one row less in order_requests. Its hash is request_hash. Orders that are
-- there have it in order_requests.
ALTER TABLE orders ADD COLUMN request_id TEXT;
