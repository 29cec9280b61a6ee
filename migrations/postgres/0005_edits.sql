SET LOCAL lock_timeout = '10s';

-- What edits leave of an order's reservations, {lines, additions}, and the items that it is about to have: null for an order
-- that was never edited.
ALTER TABLE orders ADD COLUMN stock_changes JSON;
ALTER TABLE orders ADD COLUMN amendment JSON;

-- Of a refund: the transaction id of the charge that is given back. Null in rows from before: then it is the only charge.
ALTER TABLE order_payment_transactions ADD COLUMN parent_transaction_id TEXT;
