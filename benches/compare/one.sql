-- The two commits of one order, each of them one statement: what an order that is alone has to wait for.
WITH made AS MATERIALIZED (SELECT bench_id() AS id FROM generate_series(1, 1)),
created AS (INSERT INTO orders (id, slot, user_id, order_number, currency, payment_method, shipping_method, metadata, request_hash, request_id, created_at, owner_epoch, owner_incarnation, version, status, total_amount, subtotal, tax_amount, shipping_amount, discount_amount, payment_status, notes, coupon_code, reservation_state, reservation_key, inventory_reservation_id, saga_no, event_seq, updated_at)
  SELECT k.id, 1034, '123e4567-e89b-12d3-a456-426614174000', bench_number(), 'USD', 'CREDIT_CARD', 'STANDARD', '{}', '\x0624e2c789e1f5fd89f95c4576c75b57', k.id::text, now(), 1, 1795397279229768,
    1, 'PENDING', 93.17, 89.98, 7.19, 5.00, 9.00, 'PENDING', 'Please leave package at the door', 'SUMMER10', 'REQUESTED',
    k.id::text || '/1/reserve/1', NULL, 1, 3, now() FROM made AS k),
items AS (INSERT INTO order_items (order_id, id, position, product_id, variant_id, sku, name, tax_class, quantity, unit_price, subtotal, discount_amount, tax_amount, created_at, updated_at)
  SELECT k.id, gen_random_uuid(), 0, '123e4567-e89b-12d3-a456-426614174001', '123e4567-e89b-12d3-a456-426614174002', 'PROD-001-VAR-002', 'Product Name - Variant Name', 'standard', 2, 44.99, 89.98, 9.00, 7.19, now(), now() FROM made AS k),
addresses AS (INSERT INTO order_addresses (order_id, id, address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, phone, email, created_at, updated_at)
  SELECT k.id, gen_random_uuid(), t.kind, 'John', 'Doe', '123 Main St', 'Apt 4B', 'New York', 'NY', '10001', 'US', '555-123-4567', 'john.doe@example.com', now(), now() FROM made AS k, (VALUES ('SHIPPING'), ('BILLING')) AS t(kind)),
claims AS (INSERT INTO coupon_claims (order_id, code) SELECT k.id, 'SUMMER10' FROM made AS k),
events AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at)
  SELECT k.id, e.seq, e.version, e.type, e.payload, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now()
  FROM made AS k CROSS JOIN LATERAL (VALUES (1, 1, 'order_created', '{"type":"order_created","order_number":"ORD-82NNC4Y5Z2","currency":"USD","totals":{"subtotal":"89.98","discount":"9.00","tax":"7.19","shipping":"5.00","total":"93.17"},"lines":1}'::json), (2, 1, 'saga_started', '{"type":"saga_started","saga":1,"kind":"CREATE"}'::json), (3, 1, 'stock_requested', ('{"type":"stock_requested","key":"' || k.id::text || '/1/reserve/1"}')::json)) AS e(seq, version, type, payload)),
history AS (INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at)
  SELECT k.id, gen_random_uuid(), h.seq, h.status, '', 'dev', now() FROM made AS k, (VALUES (1, 'PENDING')) AS h(seq, status)),
begun AS (INSERT INTO sagas (order_id, saga_no, kind, direction, step, tries, resend, due_at, started_at, settled, notes, principal, request_id, ahead)
  SELECT k.id, 1, 'CREATE', 'FORWARD', 'RESERVE', 0, false, now(), now(), false, '', 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', true FROM made AS k)
SELECT id FROM made \gset
WITH made AS MATERIALIZED (SELECT :id::uuid AS id),
changed AS (UPDATE orders AS o SET version = 2, status = 'CONFIRMED', payment_status = 'PAID', reservation_state = 'COMMITTED',
    inventory_reservation_id = 'rsv_a2db2fb9f4508916be1d0c6880ac4e61', event_seq = 8, updated_at = now()
  FROM made AS k WHERE o.id = k.id AND o.version = 1 RETURNING 1),
ledger AS (INSERT INTO order_payment_transactions (order_id, id, entry_no, kind, status, call_key, transaction_id, payment_method, amount, currency, gateway_response, created_at, updated_at)
  SELECT k.id, gen_random_uuid(), p.entry, 'CHARGE', p.status, k.id::text || '/1/charge/1', p.tx, 'CREDIT_CARD', 93.17, 'USD', p.answer, now(), now()
  FROM made AS k, (VALUES (0, 'SUCCEEDED', 'txn_fcfe60554c578dc7aeed43c390dc2bb9', '{"authorization_code":"FCFE60","card_brand":"VISA","last4":"4242","avs_result":"Y"}')) AS p(entry, status, tx, answer)),
events AS (INSERT INTO order_events (order_id, seq, version, type, payload, principal, request_id, at)
  SELECT k.id, e.seq, e.version, e.type, e.payload, 'dev', '01a20604-aadf-7114-84da-414ab86b42fc', now()
  FROM made AS k CROSS JOIN LATERAL (VALUES (4, 2, 'stock_reserved', '{"type":"stock_reserved","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}'::json), (5, 2, 'charged', ('{"type":"charged","key":"' || k.id::text || '/1/charge/1","transaction_id":"txn_fcfe60554c578dc7aeed43c390dc2bb9","amount":"93.17","gateway_response":"{\"authorization_code\":\"FCFE60\",\"card_brand\":\"VISA\",\"last4\":\"4242\",\"avs_result\":\"Y\"}"}')::json), (6, 2, 'status_changed', '{"type":"status_changed","from":"PENDING","to":"CONFIRMED"}'::json), (7, 2, 'stock_committed', '{"type":"stock_committed","reservation_id":"rsv_a2db2fb9f4508916be1d0c6880ac4e61"}'::json), (8, 2, 'saga_settled', '{"type":"saga_settled","saga":1}'::json)) AS e(seq, version, type, payload)),
history AS (INSERT INTO order_status_history (order_id, id, seq, status, notes, created_by, created_at)
  SELECT k.id, gen_random_uuid(), h.seq, h.status, '', 'dev', now() FROM made AS k, (VALUES (6, 'CONFIRMED')) AS h(seq, status)),
resumed AS (UPDATE sagas AS s SET step = NULL, sent_at = now(), settled = true, ahead = false FROM made AS k
  WHERE s.order_id = k.id AND s.saga_no = 1 RETURNING 1)
SELECT 1 / (CASE WHEN (SELECT count(*) FROM changed) + (SELECT count(*) FROM resumed) = 2 THEN 1 ELSE 0 END);
