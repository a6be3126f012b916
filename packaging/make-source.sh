#!/bin/bash
# make-source.sh FOLDER : write swtpm-svc-VERSION.tar.gz there, from this tree as it is (what git tracks, or everything
# without git). The same tree gives the same bytes. VERSION is that of swtpm_svc/__init__.py.
set -euo pipefail
folder=$(realpath "$1"); cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' swtpm_svc/__init__.py)
# of this tree, not one that it was unpacked in
checkout() { [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$(pwd -P)" ]; }
files() {
  if checkout; then git ls-files -z; return; fi
  find . -type f ! -path './.git/*' ! -path './.venv/*' ! -path './.*_cache/*' ! -path './.hypothesis/*' \
    ! -path './build/*' ! -path './*.egg-info/*' ! -path '*/__pycache__/*' ! -name '*.so' ! -name _libtpms.c \
    -printf '%P\0'
}
mkdir -p "$folder"
# zip, and so a wheel, knows no time before 1980
when=${SOURCE_DATE_EPOCH:-$(if checkout; then git log -1 --format=%ct; else stat -c %Y CHANGELOG.md; fi)}
files | tar --null -T - --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
  --transform "s,^,swtpm-svc-$version/," -c | gzip -n >"$folder/swtpm-svc-$version.tar.gz"
echo "$folder/swtpm-svc-$version.tar.gz"
