# syntax=docker/dockerfile:1
#
#   docker build -t order-service --build-arg ORDER_SERVICE_BUILD="$(git rev-parse --short HEAD)" .
#
# Crates are fetched in one layer, by Cargo.lock alone; everything after it is built with --offline. Behind a mirror of the
# registry, give cargo's configuration: --build-arg CARGO_CONFIG="$(cat my-mirror.toml)".
#
# The version is the one of rust-toolchain.toml, which is not copied: its components for development would be downloaded.
ARG RUST_VERSION=1.95.0

FROM rust:${RUST_VERSION}-slim-bookworm AS build
WORKDIR /build
ARG CARGO_CONFIG=""
RUN if [ -n "$CARGO_CONFIG" ]; then printf '%s\n' "$CARGO_CONFIG" >"$CARGO_HOME/config.toml"; fi

# The dependencies, with nothing of ours but their list: this layer is made anew when that changes, and only then.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs && echo 'fn main() {}' >build.rs \
    && cargo fetch --locked
RUN cargo build --release --locked --offline --bin order-service

# What the program is made of. The stand-ins from above are newer than these files, so what was built of them goes.
COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY config config
COPY src src
ARG ORDER_SERVICE_BUILD=image
RUN cargo clean --release --offline --package order-service \
    && ORDER_SERVICE_BUILD="$ORDER_SERVICE_BUILD" cargo build --release --locked --offline --bin order-service \
    && mkdir -p /out/data \
    && mv target/release/order-service /out/

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="order-service" \
    org.opencontainers.image.description="Orders for an e-commerce platform: one actor per order, durable sagas, gRPC." \
    org.opencontainers.image.licenses="Apache-2.0"
# The authorities of the machine, for TLS to collaborators, issuers of tokens and the database.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/order-service /usr/local/bin/order-service
COPY --from=build --chown=65532:65532 /out/data /var/lib/order-service
# No settings by environment: they would win over files given with --config.
COPY --chmod=644 config/image.yaml /etc/order-service/image.yaml
WORKDIR /var/lib/order-service
VOLUME ["/var/lib/order-service"]
USER 65532:65532
# Callers, other nodes, operators.
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["order-service", "ops", "health"]
ENTRYPOINT ["order-service"]
CMD ["serve", "--config", "/etc/order-service/image.yaml"]
