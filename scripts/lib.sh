# Shared by the shell scripts: messages, where tools and caches lie, and whether a tool is there.
# Sourced, never run. Sets ROOT, TOOLS and PATH; must not install anything.

: "${HOME:=/root}"; export HOME
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Tools built by cargo and the lavapipe Chromium are kept outside the clone, so that a second clone finds them.
TOOLS=${LAMPLIGHT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lamplight}
LAVAPIPE_DIR=$TOOLS/chromium-lavapipe
export PATH="$TOOLS/bin:$ROOT/node_modules/.bin:$PATH:$HOME/.cargo/bin"

# The command-line tool must be of the very version of the crate (Cargo.toml pins it).
WASM_BINDGEN_VERSION=$(sed -n 's/^wasm-bindgen = "=\(.*\)"$/\1/p' "$ROOT/Cargo.toml")
WASM_PACK_VERSION=0.15.1
GECKODRIVER_VERSION=0.37.1

say() { printf '== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
# Whether there is such a program; a function of that name, such as the set-up's, is none.
have() { type -P "$1" >/dev/null; }

# In CI nothing may be missing; on a developer's machine a missing browser only skips its tests, visibly.
in_ci() { [ "${CI:-}" = true ] || [ "${CI:-}" = 1 ]; }

# The first existing path among the arguments (globs welcome).
first_of() { local f; for f in "$@"; do [ -e "$f" ] && { printf '%s' "$f"; return 0; }; done; return 1; }

chromium_bin() { first_of /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome || command -v chromium; }
chromedriver_bin() { first_of /usr/bin/chromedriver /usr/lib/chromium-browser/chromedriver || command -v chromedriver; }
firefox_bin() { first_of /usr/bin/firefox-esr || command -v firefox; }
minibrowser_bin() { first_of /usr/lib/*/webkit2gtk-4.1/MiniBrowser /usr/lib/*/webkit2gtk-4.0/MiniBrowser /usr/libexec/webkit2gtk-4.1/MiniBrowser; }
system_lavapipe_icd() { first_of /usr/share/vulkan/icd.d/lvp_icd*.json; }

# The driver file of lavapipe, the software Vulkan: the newer one beside the patched Chromium if it was set up.
lavapipe_icd() { first_of "$LAVAPIPE_DIR/lvp.json" || system_lavapipe_icd; }
have_lavapipe_chromium() { [ -x "$LAVAPIPE_DIR/browser/chromium" ] && [ -e "$LAVAPIPE_DIR/lvp.json" ]; }

have_wasm_bindgen() { have wasm-bindgen && [ "$(wasm-bindgen --version 2>/dev/null)" = "wasm-bindgen $WASM_BINDGEN_VERSION" ]; }
have_chrome_tests() { chromium_bin >/dev/null && chromedriver_bin >/dev/null && have wasm-pack; }
have_firefox_tests() { firefox_bin >/dev/null && have geckodriver && have wasm-pack; }
have_webkit_tests() { minibrowser_bin >/dev/null && have WebKitWebDriver && have Xvfb; }
