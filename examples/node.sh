#!/usr/bin/env bash
# One node of a cluster on this machine: examples/node.sh NUMBER (1 to 9). The store is ORDER__STORE__URL, the collaborators
# are an `order-service simulate`. Its process id is kept in data/node-NUMBER.pid.
set -euo pipefail
number=${1:?which node? a number from 1 to 9}
: "${ORDER__STORE__URL:?set it to the Postgres database that all nodes share}"

simulator=${SIMULATOR:-http://127.0.0.1:50061}
for service in INVENTORY PRODUCT USER PAYMENT SHIPPING; do
    export "ORDER__COLLABORATORS__$service=$simulator"
done
export ORDER__CLUSTER__ENABLED=true ORDER__CLUSTER__NAME="node-$number"
export ORDER__GRPC__LISTEN="127.0.0.1:5100$number" ORDER__PEER__LISTEN="127.0.0.1:5200$number"
export ORDER__OPS__LISTEN="127.0.0.1:5300$number"
mkdir -p data
echo $$ >"data/node-$number.pid"
exec "${ORDER_SERVICE:-./target/release/order-service}" serve
