#!/usr/bin/env bash
# Runs the rings of tests, all or those named: scripts/test.sh [lint rust build wasm-chrome ... e2e webkit]
# Each ring runs whatever the others did; the summary ends with one line "N passed, N failed" (tests, summed over the rings).
set -uo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export CHROMIUM_BIN FIREFOX_BIN MINIBROWSER_BIN LAVAPIPE_DIR LAVAPIPE_ICD
CHROMIUM_BIN=$(chromium_bin || true) FIREFOX_BIN=$(firefox_bin || true) MINIBROWSER_BIN=$(minibrowser_bin || true)
LAVAPIPE_ICD=$(lavapipe_icd || true)
LOGS=$ROOT/target/rings; mkdir -p "$LOGS"
ONLY=" $* "

passed=0 failed=0
summary=() skipped=()

# Test counts out of a ring's log, as "passed failed": cargo test, nextest, wasm-bindgen-test and node:test are known.
count() {
  sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
    /^test result: / { p += $4; f += $6 }
    /^ *Summary \[.*tests? run:/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i - 1); if ($i ~ /^failed/) f += $(i - 1) } }
    /^(#|ℹ) pass [0-9]+$/ { p += $3 }
    /^(#|ℹ) fail [0-9]+$/ { f += $3 }
    END { print p + 0, f + 0 }'
}

# ring NAME REQUIREMENT COMMAND...: REQUIREMENT is a function that tells whether the ring can run here (`true` for always).
ring() {
  local name=$1 requirement=$2 status=0 start=$SECONDS p f log=$LOGS/$1.log; shift 2
  [ "$ONLY" = "  " ] || [[ $ONLY == *" $name "* ]] || return 0
  if ! $requirement; then
    if in_ci; then
      summary+=("$name: FAILED: what it needs is missing (see the set-up above)"); failed=$((failed + 1))
    else
      skipped+=("$name")
    fi
    return 0
  fi
  printf '\n======== %s\n' "$name"
  "$@" </dev/null 2>&1 | tee "$log"; status=${PIPESTATUS[0]}
  read -r p f < <(count "$log")
  # A ring without countable tests counts as one; a ring that failed without a failed test has one.
  if [ "$status" != 0 ]; then [ "$f" -gt 0 ] || f=1; elif [ "$p" = 0 ]; then p=1; fi
  passed=$((passed + p)) failed=$((failed + f))
  summary+=("$name: $([ "$status" = 0 ] && echo ok || echo FAILED), $p passed, $f failed, $((SECONDS - start)) s")
  # Logs of CI are cut: what went wrong stands at their end.
  [ "$status" = 0 ] || summary+=("$(grep -E '^ *(✖|not ok|FAIL|error)|Error|panicked|assertion' "$log" | tail -n 20 | cut -c 1-300 | sed 's/^/    /')")
}

# Host tests, the GPU ones on lavapipe (software Vulkan).
rust_tests() {
  export VK_DRIVER_FILES=$LAVAPIPE_ICD XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$LOGS} LAMPLIGHT_MODEL
  # Where a driver is there, a GPU test that finds no adapter must fail, not skip.
  [ -z "$LAVAPIPE_ICD" ] || export LAMPLIGHT_REQUIRE_GPU=1
  LAMPLIGHT_MODEL=$(scripts/model.sh | tail -n 1) || return 1
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --features cli --no-fail-fast --hide-progress-bar --status-level slow --final-status-level fail
  else
    cargo test --features cli --no-fail-fast --lib --bins --tests
  fi
}
# With the features of the other host builds: other features would compile the dependencies anew.
doc_tests() { cargo test --features cli --doc; }

# wasm_tests VARIANT: tests/wasm.rs and the SIMD unit tests in a dedicated worker of one browser set-up, run as a user of the crate would.
wasm_tests() {
  local variant=$1 driver
  export WASM_BINDGEN_TEST_TIMEOUT=900 WASM_BINDGEN_TEST_WEBDRIVER_JSON
  WASM_BINDGEN_TEST_WEBDRIVER_JSON=$(node scripts/webdriver.mjs "$variant" "$LOGS") || return 1
  case $variant in
    chrome-*) driver=(--chrome --chromedriver "$(chromedriver_bin)") ;;
    firefox-*) driver=(--firefox --geckodriver "$(command -v geckodriver)") ;;
  esac
  # The tests read at compile time what they must find, so a missing adapter fails instead of skipping.
  export LAMPLIGHT_EXPECT_GPU; case $variant in *-cpu) LAMPLIGHT_EXPECT_GPU=0 ;; *) LAMPLIGHT_EXPECT_GPU=1 ;; esac
  [ -z "$LAVAPIPE_ICD" ] || [ "$variant" = chrome-swiftshader ] || export VK_DRIVER_FILES=$LAVAPIPE_ICD
  wasm-pack test --headless "${driver[@]}" --mode no-install . --lib --test wasm
}

page_tests() { LAMPLIGHT_MODEL=$(scripts/model.sh | tail -n 1) node --test --test-reporter=spec --test-concurrency=1 --test-timeout=600000 "$@"; }
package_tests() { npm test --workspaces --if-present; }
has_wasm_test() { [ -e tests/wasm.rs ]; }
can_chrome() { has_wasm_test && have_chrome_tests; }
can_lavapipe() { has_wasm_test && have_chrome_tests && have_lavapipe_chromium; }
can_firefox() { has_wasm_test && have_firefox_tests; }
can_e2e() { chromium_bin >/dev/null && have_lavapipe_chromium; }

ring lint true scripts/lint.sh
ring rust true rust_tests
ring doc true doc_tests
ring build true scripts/build.sh
ring size true node scripts/size.mjs
ring package true package_tests
ring wasm-chrome-swiftshader can_chrome wasm_tests chrome-swiftshader
ring wasm-chrome-lavapipe can_lavapipe wasm_tests chrome-lavapipe
ring wasm-firefox-webgpu can_firefox wasm_tests firefox-webgpu
ring wasm-chrome-cpu can_chrome wasm_tests chrome-cpu
ring wasm-firefox-cpu can_firefox wasm_tests firefox-cpu
ring e2e can_e2e page_tests tests/browser/*.test.mjs
ring firefox-tabs have_firefox_tests page_tests tests/browser/firefox.mjs
ring webkit have_webkit_tests page_tests tests/browser/webkit.mjs

printf '\n======== summary (%d s)\n' "$SECONDS"
[ ${#summary[@]} -eq 0 ] || printf '%s\n' "${summary[@]}"
[ ${#skipped[@]} -eq 0 ] || printf 'SKIPPED, not set up on this machine (see the warnings of the set-up): %s\n' "${skipped[@]}"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
