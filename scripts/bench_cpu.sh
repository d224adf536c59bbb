#!/usr/bin/env bash
# The CPU in Chromium beside wllama (and Transformers.js where its weights were made), over weight formats, prompt lengths and depths.
# Usage: bench_cpu.sh [MODEL.gguf]. TYPES="q8_0 q4_0": formats to requantise it to besides its own; LAMPLIGHT_BENCH: options for run.mjs.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
model=${1:-}
[ -n "$model" ] || model=$(scripts/model.sh | tail -n 1)
model=$(realpath "$model")
own="--backends cpu --prompt 128,512 --depth 0,1024 --tokens 64"
LAMPLIGHT_BENCH="$own ${LAMPLIGHT_BENCH:-}" scripts/bench.sh "$model"

# Transformers.js is the same for all formats: its weights are its own.
mkdir -p target/bench
for type in ${TYPES-q8_0 q4_0 q4_k q6_k}; do
  file=target/bench/$(basename "$model" .gguf)-$type.gguf
  [ -s "$file" ] || {
    say "Requantising to $type"
    cargo run --quiet --release --features cli -- quantize "$model" "$file.part" --type "$type" --requantize && mv "$file.part" "$file"
  }
  # shellcheck disable=SC2086 # several options in one variable
  node benches/browser/run.mjs --model "$file" $own --engines lamplight,wllama ${LAMPLIGHT_BENCH:-}
done
