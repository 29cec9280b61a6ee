SET LOCAL lock_timeout = '10s';

-- When inventory last said that it holds the reservation: it is asked to hold on before its time is over. Null = not known.
ALTER TABLE orders ADD COLUMN reservation_renewed_at TIMESTAMPTZ;

-- Orders that somebody has to look at when a moment has come although no saga is under way, such as the end of a hold;
-- sagas have their own due times. Null = nothing is waited for (any more). Holds that are there already have none: they
-- end as well, which is recorded when they are released.
CREATE TABLE order_timers (
    order_id UUID        NOT NULL PRIMARY KEY,
    due_at   TIMESTAMPTZ
);

CREATE INDEX order_timers_due ON order_timers (due_at, order_id) WHERE due_at IS NOT NULL;
