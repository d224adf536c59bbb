#!/usr/bin/env bash
# Formatting and lints for the host and for wasm32, and the TypeScript type check. Any warning is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
say "rustfmt"; cargo fmt --check
say "clippy, host"; cargo clippy --all-targets --features cli -- -D warnings
say "clippy, wasm32"; cargo clippy --target wasm32-unknown-unknown --lib --tests -- -D warnings
say "rustdoc"; RUSTDOCFLAGS="-D warnings" cargo doc --features cli --no-deps --quiet
say "TypeScript"; npm run check --workspaces --if-present
