#!/usr/bin/env bash
# Run once by the Postgres image, when its volume is empty: who owns the tables, and who nodes are.
set -euo pipefail

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set owner="$(cat /run/secrets/owner-password)" --set node="$(cat /run/secrets/node-password)" <<'SQL'
CREATE ROLE order_owner LOGIN PASSWORD :'owner';
CREATE ROLE order_node LOGIN PASSWORD :'node';
CREATE DATABASE orders OWNER order_owner;
REVOKE CONNECT ON DATABASE orders FROM PUBLIC;
GRANT CONNECT ON DATABASE orders TO order_node;
SQL
