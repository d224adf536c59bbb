#!/usr/bin/env bash
# Sets up what a make target needs, step by step; a step whose result is already there is skipped.
#   scripts/setup.sh build   Rust's wasm target, wasm-bindgen, node packages (wasm-opt among them)
#   scripts/setup.sh test    build + browsers, drivers, a software GPU, wasm-pack
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export DEBIAN_FRONTEND=noninteractive

problems=()
# A piece that only some tests need: fatal in CI, noted elsewhere.
missing() { problems+=("$1"); warn "$1"; }

check_basics() {
  have rustup || have rustc || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again."
  have cargo || die "cargo is missing: install Rust with rustup (https://rustup.rs)."
  have node || die "Node.js 20.19 or later is missing: install it (https://nodejs.org or your package manager), then run this again."
  have npm || die "npm is missing: it comes with Node.js; on Debian: apt-get install npm."
  local need rustc_minor
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
    die "Node.js $(node --version) is too old: 20.19 or later is needed."
  need=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*"/\1/p' Cargo.toml)
  rustc_minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
  if [ "${rustc_minor:-0}" -lt "$need" ]; then
    have rustup || die "rustc 1.$rustc_minor is too old: 1.$need or later is needed."
    say "Updating the stable Rust toolchain (1.$rustc_minor is older than 1.$need)"
    rustup toolchain install stable --profile minimal --component clippy,rustfmt
  fi
}

rust_target() {
  local libdir
  libdir=$(rustc --print target-libdir --target wasm32-unknown-unknown)
  compgen -G "$libdir/libcore-*" >/dev/null && return
  say "Adding Rust's wasm32-unknown-unknown target"
  have rustup || die "the wasm32-unknown-unknown target is missing and there is no rustup to add it with."
  rustup target add wasm32-unknown-unknown
}

rust_components() {
  cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 && return
  say "Adding clippy and rustfmt"
  rustup component add clippy rustfmt
}

# cargo_tool CRATE VERSION: built without optimisation (minutes less, and it runs fast enough), outside the user's ~/.cargo/bin.
# Published lock files go stale (one of these asks for a crate version that was withdrawn), so --locked is only the first try.
cargo_tool() {
  say "Building $1 $2 with cargo install (a few minutes, once)"
  local common=(cargo install "$1" --version "$2" --debug --quiet --root "$TOOLS" --force)
  case $1 in
    wasm-bindgen-cli) "${common[@]}" ;;
    *) "${common[@]}" --locked || "${common[@]}" ;;
  esac
}

wasm_bindgen() { have_wasm_bindgen || cargo_tool wasm-bindgen-cli "$WASM_BINDGEN_VERSION"; }
wasm_pack() { have wasm-pack || cargo_tool wasm-pack "$WASM_PACK_VERSION" || missing "wasm-pack could not be built; the wasm tests are skipped."; }
geckodriver() { have geckodriver || cargo_tool geckodriver "$GECKODRIVER_VERSION" || missing "geckodriver could not be built; the Firefox tests are skipped."; }

node_packages() {
  # npm writes node_modules/.package-lock.json last: older than the lock file means a stale or broken install.
  [ node_modules/.package-lock.json -nt package-lock.json ] && return
  say "Installing node packages (npm ci)"
  local try
  for try in 1 2 3; do
    npm ci --no-audit --no-fund && { touch node_modules/.package-lock.json; return; }
    warn "npm ci failed (try $try of 3)"; sleep $((try * 5))
  done
  die "npm ci failed three times; see its messages above."
}

# Becomes root for apt: directly, or by a sudo that asks nothing.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo && sudo -n true 2>/dev/null; then sudo -n env DEBIAN_FRONTEND=noninteractive "$@"; else return 126; fi
}

apt_updated=no
# apt_install TEXT PACKAGE...: says TEXT, then installs; false when it cannot.
apt_install() {
  local text=$1 try; shift
  have apt-get || { warn "no apt-get here; install by hand: $*"; return 1; }
  as_root true || { warn "not root and no password-less sudo; install by hand: apt-get install $*"; return 1; }
  if [ $apt_updated = no ]; then
    say "Updating apt's package lists"
    for try in 1 2 3 4; do as_root apt-get -q update </dev/null && break; warn "apt-get update failed (try $try of 4)"; sleep $((try * 10)); done
    apt_updated=yes
  fi
  say "$text: apt-get install $*"
  for try in 1 2 3; do
    as_root apt-get install -y -q --no-install-recommends "$@" </dev/null && return 0
    warn "apt-get install failed (try $try of 3)"; sleep $((try * 10)); as_root apt-get -q update </dev/null || true
  done
  return 1
}

# One apt call for everything that is missing.
browsers() {
  local want=()
  { chromium_bin && chromedriver_bin; } >/dev/null || want+=(chromium chromium-driver)
  firefox_bin >/dev/null || want+=(firefox-esr)
  system_lavapipe_icd >/dev/null || want+=(mesa-vulkan-drivers libvulkan1)
  { [ -e /usr/include/vulkan/vulkan.h ] && have gcc; } || want+=(libvulkan-dev gcc libc6-dev)
  { minibrowser_bin >/dev/null && have WebKitWebDriver; } || want+=(webkit2gtk-driver)
  have Xvfb || want+=(xvfb)
  if [ ${#want[@]} -gt 0 ]; then
    apt_install "Installing browsers and a software GPU for the tests" "${want[@]}" || true
  fi
  { chromium_bin && chromedriver_bin; } >/dev/null || missing "Chromium and its driver are not there: the Chromium tests are skipped. (Debian: apt-get install chromium chromium-driver)"
  firefox_bin >/dev/null || missing "Firefox is not there: the Firefox tests are skipped. (Debian: apt-get install firefox-esr)"
  system_lavapipe_icd >/dev/null || missing "No software Vulkan driver: GPU tests are skipped. (Debian: apt-get install mesa-vulkan-drivers)"
  { minibrowser_bin >/dev/null && have WebKitWebDriver && have Xvfb; } || missing "WebKitGTK's driver or Xvfb is not there: the WebKit test is skipped. (Debian: apt-get install webkit2gtk-driver xvfb)"
}

lavapipe_chromium() {
  chromium_bin >/dev/null && system_lavapipe_icd >/dev/null || return 0
  "$ROOT/tests/tools/lavapipe-chromium.sh" "$LAVAPIPE_DIR" || missing "Chromium on lavapipe could not be set up: the f16 and real-model WebGPU tests are skipped."
}

check_basics
mkdir -p "$TOOLS/bin"
case ${1:-build} in
  build) rust_target; wasm_bindgen; node_packages ;;
  lint) rust_target; rust_components; node_packages ;;
  test)
    rust_target; rust_components
    browsers
    wasm_bindgen; wasm_pack
    if firefox_bin >/dev/null; then geckodriver; fi
    node_packages
    lavapipe_chromium
    ;;
  *) die "usage: scripts/setup.sh build|lint|test" ;;
esac
if [ ${#problems[@]} -gt 0 ] && in_ci; then die "CI=true and ${#problems[@]} piece(s) of the set-up are missing (above)."; fi
