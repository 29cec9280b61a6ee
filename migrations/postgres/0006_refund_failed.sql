-- no-transaction
-- Orders whose refund was refused, for those who look after them. Nearly none of all orders are in it. `payment_status`
-- changes together with `status`, which has an index already, so hardly any update loses its place on the page by this.
-- If this is interrupted, an index that is not valid stays behind: nothing goes wrong, and who drops and creates it again
-- makes the looking fast.
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_refund_failed ON orders (id) WHERE payment_status = 'REFUND_FAILED';
