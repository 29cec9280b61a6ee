-- Ids like the service's: time first, then chance. Inlined by the planner.
CREATE FUNCTION bench_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT (lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0')
    || right(gen_random_uuid()::text, 22))::uuid
$$;
CREATE FUNCTION bench_number() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT 'ORD-' || upper(left(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/', '01'), 10))
$$;
