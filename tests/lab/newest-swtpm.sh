#!/bin/bash
# newest-swtpm.sh [PYTEST ARGUMENT...] : with the newest swtpm for a peer, what goes to and fro between swtpm and us
#
# Debian 12 and 13 have swtpm 0.7.1 with libtpms 0.9. sid's is fetched by apt, which checks the signatures, and unpacked
# into the lab's cache with its own libc and libtpms, and patched to use those; nothing is installed. It stands first in
# the tests' PATH. Ours stays on this system's libtpms, so state goes from one library to the other as well.
# Default: the tests of state and state blobs, in all forms and both directions.
# Variables: LAB_CACHE, LAB_MIRROR (apt.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$(dirname "$here")")
# shellcheck source=tests/lab/apt.sh
. "$here/apt.sh"
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vtpm-lab}/swtpm
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9

fetch() { # FOLDER : sid's swtpm in FOLDER/bin
  local libraries=$1/root/usr/lib/x86_64-linux-gnu program
  rm -rf "$1"; mkdir -p "$1/bin"
  mmdebstrap --variant=extract --include=swtpm,swtpm-tools,libc6 --aptopt='Acquire::Check-Valid-Until "false"' \
    sid "$1/root" "$(apt_lines sid)"
  for program in "$1"/root/usr/bin/swtpm*; do
    # to the final place; of the libraries too that the libraries want, which takes the older kind of entry
    patchelf --force-rpath --set-rpath "${libraries/"$1"/$cache/sid}/swtpm:${libraries/"$1"/$cache/sid}" \
      --set-interpreter "${libraries/"$1"/$cache/sid}/ld-linux-x86-64.so.2" "$program"
    ln -s "../root/usr/bin/${program##*/}" "$1/bin/"
  done
  rm -rf "$cache/sid"; mv "$1" "$cache/sid"
}

if [ ! -x "$cache/sid/bin/swtpm" ]; then
  fetch "$cache/.new" >"$cache/log" 2>&1 </dev/null || { tail -n 20 "$cache/log" >&2; exit 1; }
fi
flock --unlock 9
export PATH=$cache/sid/bin:$PATH
version=$(swtpm --version)
case $version in
  'TPM emulator version 0.'[0-9].*) echo "newest-swtpm.sh: no newer one: $version" >&2; exit 1;;
  *) echo "== ${version%%,*}";;
esac
cd "$project"
state=tests/integration/state
[ $# -gt 0 ] || set -- $state/test_state_exclusion.py $state/test_state_{swtpm,swtpm_keys,file}.py \
  tests/integration/cli/classic/test_callers_state.py
.venv/bin/python -m pytest -p no:cacheprovider -n auto --maxprocesses 8 "$@"
