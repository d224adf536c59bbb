#!/usr/bin/env bash
# The browser benchmark: gets the peers (npm) and Transformers.js's weights (made once), then runs benches/browser/run.mjs.
# Usage: bench.sh [MODEL.gguf]; options for run.mjs in LAMPLIGHT_BENCH. Builds must be there (`make bench` sees to it).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
bench=$ROOT/benches/browser
model=${1:-}
[ -n "$model" ] || model=$("$ROOT/scripts/model.sh" | tail -n 1)
model=$(realpath "$model")

if ! [ "$bench/node_modules/.package-lock.json" -nt "$bench/package-lock.json" ]; then
  say "Installing the peers (npm ci in benches/browser)"
  (cd "$bench" && npm ci --no-audit --no-fund && touch node_modules/.package-lock.json)
fi

if [ -n "${LAMPLIGHT_BENCH_LOAD:-}" ]; then
  # shellcheck disable=SC2086 # several options in one variable
  exec node "$bench/load.mjs" --model "$model" ${LAMPLIGHT_BENCH:-}
fi

# Made beside the other caches, by the model's name and size: half a gigabyte, a few minutes.
onnx=$TOOLS/onnx/$(basename "$model" .gguf)-$(stat -c %s "$model")
make_onnx() {
  local venv=$TOOLS/onnx/venv
  say "Making the ONNX weights for Transformers.js (once)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check gguf numpy onnx onnx_ir onnxruntime </dev/null
  rm -rf "$onnx.part"
  "$venv/bin/python" "$bench/make_onnx.py" "$model" "$onnx.part" && mv "$onnx.part" "$onnx"
}
[ -d "$onnx" ] || (make_onnx) || warn "the ONNX weights could not be made: Transformers.js is left out of the comparison."
with_onnx=(); [ -d "$onnx" ] && with_onnx=(--onnx "$onnx")

# shellcheck disable=SC2086 # several options in one variable
node "$bench/run.mjs" --model "$model" "${with_onnx[@]}" ${LAMPLIGHT_BENCH:-}
