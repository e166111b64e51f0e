# One static binary and nothing else.
#
#   docker build -t netwright:0.1.0 .
#
# With a binary that is there already (same flags, for the image's platform), no Rust is needed:
#   docker build --build-context build=DIR-WITH-netwright -t netwright:0.1.0 .
FROM rust:1.90-slim-bookworm AS compile
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# the installer carries the manifests
COPY deploy/netwright.yaml ./deploy/
COPY benches ./benches
# A named target keeps the flags away from build scripts and procedural macros, which cannot be static.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" \
    && mkdir /out && cp "target/$target/release/netwright" /out/

FROM scratch AS build
COPY --from=compile /out/netwright /netwright

FROM scratch
LABEL org.opencontainers.image.title=netwright \
      org.opencontainers.image.description="The network of Kubernetes nodes under kubectl" \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /netwright /netwright
# The manifests give the agent uid 0, for NetworkManager, and take everything else of root away.
USER 65532:65532
ENTRYPOINT ["/netwright"]
