#!/bin/bash
# python39.sh [PYTEST ARGUMENT...] : the tests under Python 3.9, the oldest that the package takes (default: tests/unit)
#
# No newer Debian has that Python. Debian 11's is fetched by apt, which checks the signatures, and unpacked into the
# lab's cache; nothing is installed. It runs on this system's libraries, libtpms and systemd's among them, with the
# OpenSSL and the libffi of its own time. The package of this tree, in a copy of it, and what its tests need are in a
# virtual environment there.
# Variables: LAB_CACHE, LAB_MIRROR, LAB_SECURITY_MIRROR (apt.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$(dirname "$here")")
# shellcheck source=tests/lab/apt.sh
. "$here/apt.sh"
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vtpm-lab}/python39
packages=(python3.9-minimal libpython3.9-minimal libpython3.9-stdlib python3.9 libpython3.9 libpython3.9-dev
  python3-distutils libssl1.1 libffi7)
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9

fetch() { # FOLDER : Debian 11's Python, in FOLDER/usr
  local apt new=$1.new
  rm -rf "$new"; mkdir -p "$new"/{apt,lists/partial,archives/partial,debs}
  apt_lines bullseye >"$new/sources.list"
  # of this system's apt only how it reaches the archive
  apt=(apt-get -q -o "Dir::Etc::SourceList=$new/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$new/lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$new/archives"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o 'Acquire::Check-Valid-Until=false')
  "${apt[@]}" update
  (cd "$new/debs" && "${apt[@]}" download "${packages[@]}")
  for deb in "$new"/debs/*.deb; do dpkg-deb -x "$deb" "$new"; done
  for module in "$new"/usr/lib/python3.9/lib-dynload/{_ssl,_hashlib,_ctypes}.*.so; do
    patchelf --set-rpath "$1/usr/lib/x86_64-linux-gnu" "$module"
  done
  rm -rf "$new"/{lists,archives,debs} "$1"
  mv "$new" "$1"
}

system=$cache/system tree=$cache/tree venv=$cache/venv
if [ ! -x "$system/usr/bin/python3.9" ]; then
  fetch "$system" >"$cache/log" 2>&1 || { tail -n 20 "$cache/log" >&2; exit 1; }
fi
rm -rf "$tree"; mkdir -p "$tree"
"$project/packaging/make-source.sh" "$tree" >/dev/null
tar -xzf "$tree"/*.tar.gz --strip-components=1 -C "$tree"
[ -x "$venv/bin/python" ] || "$system/usr/bin/python3.9" -m venv --without-pip "$venv"
cd "$tree"
# pyconfig.h looks for the one of this architecture where compilers look
CFLAGS="-I$system/usr/include" "$project/.venv/bin/python" -m pip --python "$venv/bin/python" \
  install -qq --disable-pip-version-check -e '.[test]' 'pytest-xdist>=3.2' </dev/null
"$venv/bin/python" -m pytest -p no:cacheprovider -n auto --maxprocesses 8 "${@:-tests/unit}"
