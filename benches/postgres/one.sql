-- The four commits of one order, each of them one statement: what an order that is alone has to wait for.
WITH made AS MATERIALIZED (SELECT bench_id() AS id FROM generate_series(1, 1)),
created AS (INSERT INTO orders (id, slot, user_id, order_number, currency, payment_method, shipping_method, metadata, request_hash, created_at, owner_epoch, owner_incarnation, version, status, total_amount, subtotal, tax_amount, shipping_amount, discount_amount, payment_status, notes, coupon_code, reservation_state, reservation_key, inventory_reservation_id, saga_no, event_seq, updated_at)
  SELECT k.id, 1034, '123e4567-e89b-12d3-a456-426614174000', bench_number(), 'USD', 'CREDIT_CARD', 'STANDARD', '{}', '\x0624e2c789e1f5fd89f95c4576c75b57', now(), 1, 1795397279229768,
    1, 'PENDING', 93.17, 89.98, 7.19, 5.00, 9.00, 'PENDING', 'Please leave package at the door', 'SUMMER10', 'REQUESTED',
    k.id::text || '/1/reserve/1', NULL, 1, 3, now() FROM made AS k),
items AS (INSERT INTO order_items (order_id, id, position, product_id, variant_id, sku, name, tax_class, quantity, unit_price, subtotal, discount_amount, tax_amount, created_at, updated_at)
  SELECT k.id, gen_random_uuid(), 0, '123e4567-e89b-12d3-a456-426614174001', '123e4567-e89b-12d3-a456-426614174002', 'PROD-001-VAR-002', 'Product Name - Variant Name', 'standard', 2, 44.99, 89.98, 9.00, 7.19, now(), now() FROM made AS k),
addresses AS (INSERT INTO order_addresses (order_id, id, address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, phone, email, created_at, updated_at)
  SELECT k.id, gen_random_uuid(), t.kind, 'John', 'Doe', '123 Main St', 'Apt 4B', 'New York', 'NY', '10001', 'US', '555-123-4567', 'john.doe@example.com', now(), now() FROM made AS k, (VALUES ('SHIPPING'), ('BILLING')) AS t(kind)),
requests AS (INSERT INTO order_requests (order_id, request_id, hash, saga_no, version)
  SELECT k.id, k.id::text, '\x0624e2c789e1f5fd89f95c4576c75b57', 1, 1 FROM made AS k),
claims AS (INSERT INTO coupon_claims (order_id, code) SELECT k.id, 'SUMMER10' FROM made AS k),
events AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at)
  SELECT k.id, e.seq, e.version, e.type, e.payload, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now()
  FROM made AS k CROSS JOIN LATERAL (VALUES (1, 1, 'order_created', '{"type":"order_created","order_number":"ORD-82NNC4Y5Z2","currency":"USD","totals":{"subtotal":"89.98","discount":"9.00","tax":"7.19","shipping":"5.00","total":"93.17"},"lines":1}'::json), (2, 1, 'saga_started', '{"type":"saga_started","saga":1,"kind":"CREATE"}'::json), (3, 1, 'stock_requested', ('{"type":"stock_requested","key":"' || k.id::text || '/1/reserve/1"}')::json)) AS e(seq, version, type, payload)),
history AS (INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at)
  SELECT k.id, gen_random_uuid(), h.seq, h.status, '', 'dev', now() FROM made AS k, (VALUES (1, 'PENDING')) AS h(seq, status)),
begun AS (INSERT INTO sagas (order_id, saga_no, kind, direction, step, tries, resend, due_at, started_at, settled, notes, principal, request_id)
  SELECT k.id, 1, 'CREATE', 'FORWARD', 'RESERVE', 0, false, now(), now(), false, '', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc' FROM made AS k)
SELECT id FROM made \gset
WITH t0 AS (INSERT INTO order_payment_transactions (order_id, id, entry_no, kind, status, call_key, transaction_id, payment_method, amount, currency, gateway_response, created_at, updated_at) VALUES (:id, gen_random_uuid(), 0, 'CHARGE', 'REQUESTED', :id::text || '/1/charge/1', '', 'CREDIT_CARD', 93.17, 'USD', NULL, now(), now())),
t1 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 4, 2, 'stock_reserved', '{"type":"stock_reserved","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t2 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 5, 2, 'charge_requested', ('{"type":"charge_requested","key":"' || :id::text || '/1/charge/1","amount":"93.17"}')::json, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t3 AS (UPDATE sagas SET step = 'CHARGE', sent_at = now(), settled = false, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1),
changed AS (UPDATE orders SET version = 2, reservation_state = 'HELD', inventory_reservation_id = 'rsv_a2db2fb9f4508916be1d0c6880ac4e61', event_seq = 5, updated_at = now() WHERE id = :id AND version = 1 RETURNING 1)
SELECT 1 / (SELECT count(*) FROM changed);
WITH t0 AS (INSERT INTO order_payment_transactions (order_id, id, entry_no, kind, status, call_key, transaction_id, payment_method, amount, currency, gateway_response, created_at, updated_at) VALUES (:id, gen_random_uuid(), 1, 'CHARGE', 'SUCCEEDED', :id::text || '/1/charge/1', 'txn_fcfe60554c578dc7aeed43c390dc2bb9', 'CREDIT_CARD', 93.17, 'USD', '{"authorization_code":"FCFE60","card_brand":"VISA","last4":"4242","avs_result":"Y"}', now(), now())),
t1 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 6, 3, 'charged', ('{"type":"charged","key":"' || :id::text || '/1/charge/1","transaction_id":"txn_fcfe60554c578dc7aeed43c390dc2bb9","gateway_response":"{\"authorization_code\":\"FCFE60\",\"card_brand\":\"VISA\",\"last4\":\"4242\",\"avs_result\":\"Y\"}"}')::json, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t2 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 7, 3, 'status_changed', '{"type":"status_changed","from":"PENDING","to":"CONFIRMED"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t3 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 8, 3, 'stock_commit_requested', ('{"type":"stock_commit_requested","key":"' || :id::text || '/1/commit_stock/1"}')::json, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t4 AS (INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at) VALUES (:id, gen_random_uuid(), 7, 'CONFIRMED', '', 'dev', now())),
t5 AS (UPDATE sagas SET step = 'COMMIT_STOCK', sent_at = now(), settled = false, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1),
changed AS (UPDATE orders SET version = 3, status = 'CONFIRMED', payment_status = 'PAID', reservation_state = 'COMMITTING', event_seq = 8, updated_at = now() WHERE id = :id AND version = 2 RETURNING 1)
SELECT 1 / (SELECT count(*) FROM changed);
WITH t0 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 9, 4, 'stock_committed', '{"type":"stock_committed","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t1 AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at) VALUES (:id, 10, 4, 'saga_settled', '{"type":"saga_settled","saga":1}', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now())),
t2 AS (UPDATE sagas SET step = NULL, sent_at = now(), settled = true, tries = 0, payment_token = NULL WHERE order_id = :id AND saga_no = 1),
changed AS (UPDATE orders SET version = 4, reservation_state = 'COMMITTED', event_seq = 10, updated_at = now() WHERE id = :id AND version = 3 RETURNING 1)
SELECT 1 / (SELECT count(*) FROM changed);
