#!/usr/bin/env bash
# Gives Chromium a better software GPU for the tests: makes DEST/browser/chromium, a copy of the system's Chromium
# whose "SwiftShader" WebGPU adapter is Mesa's lavapipe (shader-f16, subgroups, several times faster), and
# DEST/lvp.json, the Vulkan driver file to name in VK_DRIVER_FILES.
# Usage: lavapipe-chromium.sh DEST. Needs the packages chromium, mesa-vulkan-drivers, libvulkan-dev and gcc. No root.
set -euo pipefail
DEST=$1
HERE=$(cd "$(dirname "$0")" && pwd)
say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

CHROMIUM_DIR=/usr/lib/chromium
[ -x $CHROMIUM_DIR/chromium ] || die "no $CHROMIUM_DIR/chromium (this set-up knows Debian's chromium package only)."
version=$($CHROMIUM_DIR/chromium --version 2>/dev/null || true)
stamp="$version $(cat "$HERE/lavapipe-shim.c" "$HERE/lavapipe-chromium.sh" | sha256sum)"
[ "$(cat "$DEST/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
say "Setting up Chromium with lavapipe as its software GPU in $DEST"
rm -rf "$DEST"; mkdir -p "$DEST/mesa"

icd=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -n 1)
library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$icd")
case $library in /*) ;; *) library=$(ls /usr/lib/*/"$library" | head -n 1) ;; esac

# Dawn, Chromium's WebGPU, needs array indexing features that Mesa before 24 lacks. Debian 12 has a newer Mesa among its
# backports; unpack it beside the system's, so that nothing on the system is upgraded.
mesa_major=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers | sed 's/^[0-9]*://; s/\..*//')
if [ "$mesa_major" -lt 24 ]; then
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  sources=/etc/apt/sources.list.d/debian.sources
  [ -e $sources ] || die "Mesa $mesa_major is too old for Chromium's WebGPU, and there is no $sources to find $codename-backports by."
  work=$DEST/apt; mkdir -p "$work"/{lists/partial,parts,cache/archives/partial}
  awk 'BEGIN { RS = "" } NR == 1' $sources | sed "s/^Suites:.*/Suites: $codename-backports/" >"$work/parts/backports.sources"
  options=(-q -o "Dir::State::Lists=$work/lists" -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/parts"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User="$(id -un)")
  cd "$DEST/mesa"
  for try in 1 2 3; do
    apt-get "${options[@]}" update </dev/null && apt-get "${options[@]}" download mesa-vulkan-drivers </dev/null && break
    sleep $((try * 5))
  done
  dpkg -x mesa-vulkan-drivers_*.deb . || die "Mesa from $codename-backports could not be downloaded."
  rm -rf ./*.deb "$work"
  library=$(ls "$DEST"/mesa/usr/lib/*/libvulkan_lvp.so | head -n 1)
  icd=$(ls "$DEST"/mesa/usr/share/vulkan/icd.d/lvp_icd*.json | head -n 1)
fi
sed 's#"library_path": *"[^"]*"#"library_path": "'"$library"'"#' "$icd" >"$DEST/lvp.json"

# Hard links cost no disk; across file systems (or for another user's files, where the kernel forbids it) copy.
cp -al $CHROMIUM_DIR "$DEST/browser" 2>/dev/null || { rm -rf "$DEST/browser"; cp -a $CHROMIUM_DIR "$DEST/browser"; }
rm -f "$DEST/browser/libvk_swiftshader.so"
gcc -O1 -Wall -shared -fPIC -fvisibility=hidden -DLAVAPIPE_SO="\"$library\"" \
  -o "$DEST/browser/libvk_swiftshader.so" "$HERE/lavapipe-shim.c" -ldl
printf '%s' "$stamp" >"$DEST/stamp"
