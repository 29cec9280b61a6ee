-- One settled order the stateless way: four transactions of single-row statements. Each one after the first locks the
-- order's row and reads it anew. The rows are those that the service writes. One statement a line.
BEGIN;
INSERT INTO orders (id, slot, user_id, order_number, currency, payment_method, shipping_method, metadata, request_hash, request_id, created_at, owner_epoch, owner_incarnation, version, status, total_amount, subtotal, tax_amount, shipping_amount, discount_amount, payment_status, notes, coupon_code, reservation_state, reservation_key, inventory_reservation_id, saga_no, event_seq, updated_at) SELECT id, 1034, '123e4567-e89b-12d3-a456-426614174000', bench_number(), 'USD', 'CREDIT_CARD', 'STANDARD', '{}', '\x0624e2c789e1f5fd89f95c4576c75b57', id::text, now(), 1, 1795397279229768, 1, 'PENDING', 93.17, 89.98, 7.19, 5.00, 9.00, 'PENDING', 'Please leave package at the door', 'SUMMER10', 'REQUESTED', id::text || '/1/reserve/1', NULL, 1, 3, now() FROM (SELECT bench_id() AS id OFFSET 0) AS made RETURNING id \gset
INSERT INTO order_items (order_id, id, position, product_id, variant_id, sku, name, tax_class, quantity, unit_price, subtotal, discount_amount, tax_amount, created_at, updated_at) VALUES (:id, gen_random_uuid(), 0, '123e4567-e89b-12d3-a456-426614174001', '123e4567-e89b-12d3-a456-426614174002', 'PROD-001-VAR-002', 'Product Name - Variant Name', 'standard', 2, 44.99, 89.98, 9.00, 7.19, now(), now());
INSERT INTO order_addresses (order_id, id, address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, phone, email, created_at, updated_at) VALUES (:id, gen_random_uuid(), 'SHIPPING', 'John', 'Doe', '123 Main St', 'Apt 4B', 'New York', 'NY', '10001', 'US', '555-123-4567', 'john.doe@example.com', now(), now());
INSERT INTO order_addresses (order_id, id, address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, phone, email, created_at, updated_at) VALUES (:id, gen_random_uuid(), 'BILLING', 'John', 'Doe', '123 Main St', 'Apt 4B', 'New York', 'NY', '10001', 'US', '555-123-4567', 'john.doe@example.com', now(), now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 1, 1, 'order_created', '{"type":"order_created","order_number":"ORD-82NNC4Y5Z2","currency":"USD","totals":{"subtotal":"89.98","discount":"9.00","tax":"7.19","shipping":"5.00","total":"93.17"},"lines":1}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 2, 1, 'saga_started', '{"type":"saga_started","saga":1,"kind":"CREATE"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 3, 1, 'stock_requested', ('{"type":"stock_requested","key":"' || :id::text || '/1/reserve/1"}')::json, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at) VALUES (:id, gen_random_uuid(), 1, 'PENDING', '', 'dev', now());
INSERT INTO sagas (order_id, saga_no, kind, direction, step, tries, resend, due_at, started_at, settled, notes, principal, request_id) VALUES (:id, 1, 'CREATE', 'FORWARD', 'RESERVE', 0, false, now(), now(), false, '', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc');
INSERT INTO coupon_claims (order_id, code) VALUES (:id, 'SUMMER10');
COMMIT;
BEGIN;
SELECT * FROM orders WHERE id = :id FOR UPDATE;
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 4, 2, 'stock_reserved', '{"type":"stock_reserved","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
UPDATE sagas SET step = 'CHARGE', sent_at = now(), settled = false, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1;
UPDATE orders SET version = 2, reservation_state = 'HELD', inventory_reservation_id = 'rsv_a2db2fb9f4508916be1d0c6880ac4e61', event_seq = 4, updated_at = now() WHERE id = :id;
COMMIT;
BEGIN;
SELECT * FROM orders WHERE id = :id FOR UPDATE;
INSERT INTO order_payment_transactions (order_id, id, entry_no, kind, status, call_key, transaction_id, payment_method, amount, currency, gateway_response, created_at, updated_at) VALUES (:id, gen_random_uuid(), 0, 'CHARGE', 'SUCCEEDED', :id::text || '/1/charge/1', 'txn_fcfe60554c578dc7aeed43c390dc2bb9', 'CREDIT_CARD', 93.17, 'USD', '{"authorization_code":"FCFE60","card_brand":"VISA","last4":"4242","avs_result":"Y"}', now(), now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 5, 3, 'charged', ('{"type":"charged","key":"' || :id::text || '/1/charge/1","transaction_id":"txn_fcfe60554c578dc7aeed43c390dc2bb9","amount":"93.17","gateway_response":"{\"authorization_code\":\"FCFE60\",\"card_brand\":\"VISA\",\"last4\":\"4242\",\"avs_result\":\"Y\"}"}')::json, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 6, 3, 'status_changed', '{"type":"status_changed","from":"PENDING","to":"CONFIRMED"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at) VALUES (:id, gen_random_uuid(), 6, 'CONFIRMED', '', 'dev', now());
UPDATE sagas SET step = 'COMMIT_STOCK', sent_at = now(), settled = false, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1;
UPDATE orders SET version = 3, status = 'CONFIRMED', payment_status = 'PAID', reservation_state = 'COMMITTING', event_seq = 6, updated_at = now() WHERE id = :id;
COMMIT;
BEGIN;
SELECT * FROM orders WHERE id = :id FOR UPDATE;
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 7, 4, 'stock_committed', '{"type":"stock_committed","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 8, 4, 'saga_settled', '{"type":"saga_settled","saga":1}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now());
UPDATE sagas SET step = NULL, sent_at = now(), settled = true, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1;
UPDATE orders SET version = 4, reservation_state = 'COMMITTED', event_seq = 8, updated_at = now() WHERE id = :id;
COMMIT;
