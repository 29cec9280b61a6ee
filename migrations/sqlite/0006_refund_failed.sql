-- Orders whose refund was refused, for those who look after them. Nearly none of all orders are in it.
CREATE INDEX orders_refund_failed ON orders (id) WHERE payment_status = 'REFUND_FAILED';
