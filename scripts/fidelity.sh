#!/usr/bin/env bash
# How far every weight format and backend is from float32 maths, on a model (SmolLM2-135M-Instruct if none is given).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
model=${1:-$(scripts/model.sh | tail -n 1)}
icd=$(lavapipe_icd || true)
# A real GPU is used where there is one; the software driver only where nothing else is named.
[ -z "$icd" ] || [ -n "${VK_DRIVER_FILES:-}" ] || [ -e /dev/dri ] || export VK_DRIVER_FILES=$icd
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$ROOT/target}
# shellcheck disable=SC2086 # ARGS holds several words
exec cargo run --release --features cli -- fidelity "$model" ${ARGS:-}
