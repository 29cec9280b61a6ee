#!/usr/bin/env bash
# One order through its whole life: created, edited twice, refunded in part, packed, shipped, delivered, returned.
# After each step it prints what the service says and what the books of the (simulated) payment and inventory services
# say, and ends with 1 as soon as they do not agree.
#
#   examples/lifecycle.sh                                  builds and starts everything it needs, on free ports
#   ORDER_SERVICE=path/to/order-service examples/lifecycle.sh   takes this program instead of building one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${ORDER_SERVICE:-}
if [ -z "$program" ]; then
    cargo build --release --locked
    program=${CARGO_TARGET_DIR:-target}/release/order-service
fi

folder=$(mktemp -d)
pids=()
clean() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap clean EXIT

# Starts a program in the background and finds out, from what it logs, where it listens.
start() { # NAME ARGUMENTS...
    local name=$1 try
    shift
    : >"$folder/$name.log"
    ORDER__LOG__FORMAT=json "$program" "$@" >>"$folder/$name.log" 2>&1 &
    pids+=($!)
    for try in $(seq 1 150); do
        address=$(sed -n 's/.*"grpc":"\([^"]*\)".*/\1/p' "$folder/$name.log" | head -1)
        [ -z "$address" ] || return 0
        kill -0 "$!" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name does not start:" >&2
    cat "$folder/$name.log" >&2
    exit 1
}

export ORDER__STORE__URL="sqlite:$folder/orders.db" ORDER__GRPC__LISTEN=127.0.0.1:0 ORDER__OPS__LISTEN=127.0.0.1:0
start simulate simulate --listen 127.0.0.1:0
simulator=http://$address
for collaborator in INVENTORY PRODUCT USER PAYMENT SHIPPING; do
    export "ORDER__COLLABORATORS__$collaborator=$simulator"
done
start serve serve
export ORDER_SERVER=http://$address

order() { "$program" order --output json "$@"; }
# The values of a field in JSON that stands on lines of its own.
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"; }

show() { # WHAT
    local now books fits=yes
    now=$(order get "$id")
    books=$("$program" simulate ledger "$id" --simulator "$simulator")
    local status total balance goods kept sold
    status=$(field status <<<"$now" | head -1)
    total=$(field total_amount <<<"$now")
    balance=$(field balance <<<"$now")
    kept=$(field kept <<<"$books")
    goods=$(field quantity <<<"$now" | paste -sd+ - | bc_sum)
    sold=$(sed -n '/"sold"/,/\]/p' <<<"$books" | field quantity | paste -sd+ - | bc_sum)
    printf '%-34s %-11s %-18s total %8s  | payment keeps %8s | inventory sold %s\n' \
        "$1" "$status" "$(field payment_status <<<"$now")" "$total" "$kept" "$sold"
    # Nobody owes anybody anything, our own ledger is the payment service's, and what was sold is what was ordered.
    is_zero "$balance" || fits="balance is $balance"
    local ours
    ours=$(order payments "$id" | awk '
        /"kind"/ { kind = $2 } /"status"/ { status = $2 } /"amount"/ { gsub(/[",]/, "", $2); amount = $2 }
        /"key"/ && status ~ /SUCCEEDED/ { sum += (kind ~ /CHARGE/) ? amount : -amount }
        END { printf "%.2f", sum }')
    [ "$ours" = "$(printf %.2f "$kept")" ] || fits="our ledger keeps $ours, payment $kept"
    case $status in
        RETURNED) [ "$sold" = 0 ] || fits="$sold still sold" ;;
        *) [ "$sold" = "$goods" ] || fits="ordered $goods, sold $sold" ;;
    esac
    if [ "$fits" != yes ]; then
        echo "the ledgers do not agree: $fits" >&2
        exit 1
    fi
}
bc_sum() { local sum; read -r sum || true; echo $((${sum:-0})); }
is_zero() { [ -z "$(tr -d '0.-' <<<"$1")" ]; }

created=$(order create examples/create-order.json)
id=$(field id <<<"$created" | head -1)
item=$(sed -n '/"items"/,$p' <<<"$created" | field id | head -1)
show "created"
order update-item "$id" "$item" --quantity 3 >/dev/null
show "one more of the item"
order add-item "$id" 10000000-0000-4000-8000-000000000003 --quantity 2 >/dev/null
show "two mugs added"
order update-item "$id" "$item" --quantity 1 >/dev/null
show "only one of the item"
order refund "$id" --amount 5.00 --reason "a scratched mug" >/dev/null
show "5.00 given back"
order status "$id" PROCESSING >/dev/null
show "packed, label made"
order status "$id" SHIPPED >/dev/null
show "shipped"
order status "$id" DELIVERED >/dev/null
show "delivered"
order status "$id" RETURNED >/dev/null
show "returned"
echo "the ledgers agreed at every step"
