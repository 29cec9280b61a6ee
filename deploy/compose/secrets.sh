#!/usr/bin/env bash
# Makes the passwords and keys of deploy/compose.yaml, each in a file of its own in deploy/compose/secrets. What is there
# already stays: another ids-key makes repeated requests miss their order, and without the kek no name is ever read again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Only its owner gets into the folder; the files are readable for the users that containers run as.
mkdir -p secrets
chmod 700 secrets
cd secrets

keep() { # FILE, with the content from standard input
    if [ -e "$1" ]; then
        cat >/dev/null
        return
    fi
    cat >"$1.new"
    chmod 444 "$1.new"
    mv "$1.new" "$1"
    echo "made secrets/$1"
}
random() { openssl rand -hex 24; }

for name in postgres-password owner-password node-password redis-password grafana-password; do
    random | keep "$name"
done
openssl rand -base64 32 | keep kek
openssl rand -hex 32 | keep ids-key
echo "postgres://order_owner:$(cat owner-password)@postgres:5432/orders?sslmode=disable" | keep owner-url
echo "postgres://order_node:$(cat node-password)@postgres:5432/orders?sslmode=disable" | keep node-url
echo "redis://:$(cat redis-password)@redis:6379/0" | keep limits-url
echo "redis://:$(cat redis-password)@redis:6379/1" | keep cache-url
printf '%s\n' "requirepass $(cat redis-password)" 'save ""' "appendonly no" "maxmemory 256mb" \
    "maxmemory-policy allkeys-lru" | keep redis.conf
