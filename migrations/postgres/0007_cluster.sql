-- Who is in the cluster, and which node owns which slot. Every change of membership or ownership is one statement that
-- raises `cluster_view.version`, so all nodes see the same views in the same order. The rules are those of
-- `domain::membership`.

-- One row.
CREATE TABLE cluster_view (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    version  BIGINT  NOT NULL
) WITH (fillfactor = 50);

INSERT INTO cluster_view (version) VALUES (1);

-- One row a process life. Incarnations are given once and never again.
CREATE TABLE cluster_nodes (
    incarnation  BIGINT      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         TEXT        NOT NULL,
    address      TEXT        NOT NULL,
    weight       INTEGER     NOT NULL,
    version      TEXT        NOT NULL,
    build        TEXT        NOT NULL,
    read_for_us  BIGINT      NOT NULL,
    started_at   TIMESTAMPTZ NOT NULL,
    -- ACTIVE, LEAVING, LEFT or DEAD.
    state        TEXT        NOT NULL,
    -- From when a node that is gone surely answers nothing from its memory. Null while it is live.
    silent_at    TIMESTAMPTZ,
    lease_until  TIMESTAMPTZ NOT NULL,
    live_orders  BIGINT      NOT NULL
) WITH (fillfactor = 20);

-- Who says that it cannot reach whom. Few rows, and none while all is well.
CREATE TABLE cluster_votes (
    suspect BIGINT      NOT NULL,
    voter   BIGINT      NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (suspect, voter)
);

-- Who owns a slot, and since which view. Epoch 0 = nobody ever did.
CREATE TABLE slot_owner (
    slot  SMALLINT NOT NULL PRIMARY KEY,
    epoch BIGINT   NOT NULL,
    owner BIGINT
) WITH (fillfactor = 50);

INSERT INTO slot_owner (slot, epoch) SELECT slot, 0 FROM generate_series(0, 4095) AS slot;
