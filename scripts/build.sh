#!/usr/bin/env bash
# Builds the wasm module and the npm package (pkg/dist), then the demo page (www/dist).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
say "Building the wasm module and the npm package"
node pkg/build.mjs
say "Building the demo page"
npm run build --workspace www
