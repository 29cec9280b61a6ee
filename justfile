# What people run often. `just` alone lists it.
default:
    @just --list

# What CI runs.
ci:
    bash .ci/run

# Format, lint, test.
check:
    cargo fmt
    cargo clippy --locked --all-targets -- -D warnings
    tests/run

# A node with nothing configured.
serve:
    cargo run --release -- serve

# The sample order.
order:
    cargo run --release -- order create examples/create-order.json

# The service next to the limits of the machine.
bench:
    cargo bench --bench compare

# Load, and a check of what was told: just load --help.
load *ARGS:
    cargo bench --bench load -- {{ARGS}}

# Advisories, licenses, bans, sources (needs cargo-deny).
deny:
    cargo deny check
