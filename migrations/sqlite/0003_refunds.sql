-- Refunds that were granted while the order lives on: a JSON array, null when there are none. Whether their money went back
-- is what order_payment_transactions says.
ALTER TABLE orders ADD COLUMN refunds_granted TEXT;
