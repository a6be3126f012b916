#!/bin/bash
# rpm-build.sh [-V VERSION] [-i FOLDER] [-f] RESULTS : build the RPMs of packaging/swtpm.spec in the lab's build root,
# into RESULTS
#
# Source package and binary packages of this tree, with Fedora's macros (tests/lab/rpm/macros), built as nobody and
# without a network; %check runs the tests that need no privileges; rpmlint finds nothing but what
# packaging/rpmlint.toml accepts. bookworm stands for an enterprise release 9, trixie for a Fedora. Needs root, for the
# build root.
#   -V VERSION  give the package this version, for tests of an upgrade
#   -i FOLDER   with IMA signatures, by the key in FOLDER/key.pem, with FOLDER/certificate.der
#   -f          fast: no %check, no rpmlint
# Variables: SUITE, LAB_CACHE
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
version='' fast='' ima=()
while getopts V:i:fh option; do
  case $option in
    V) version=$OPTARG;; i) ima=("$OPTARG");; f) fast=1;;
    h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0;;
    *) exit 64;;
  esac
done
shift $((OPTIND - 1))
mkdir -p "${1:?RESULTS}"; results=$(realpath "$1")
"$here/vm-image.sh" >&2
work=$(mktemp -d /tmp/vtpm-rpm.XXXXXX); trap 'rm -rf "$work"' EXIT

source=$("$project/packaging/make-source.sh" "$work/SOURCES")
cp "$project/packaging/swtpm.spec" "$work/python-swtpm.spec"
if [ -n "$version" ]; then
  own=$(basename "$source" .tar.gz); own=${own#swtpm-svc-}
  tar -C "$work" -xzf "$source"; rm "$source"; mv "$work/swtpm-svc-$own" "$work/swtpm-svc-$version"
  sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$work/swtpm-svc-$version/swtpm_svc/__init__.py"
  tar -C "$work" -czf "$work/SOURCES/swtpm-svc-$version.tar.gz" "swtpm-svc-$version"
  sed -i "s/^\(Version: *\).*/\1$version/; s/ - $own-\([0-9]*\)$/ - $version-\1/" "$work/python-swtpm.spec"
fi
if [ "${#ima[@]}" = 1 ]; then
  mkdir "$work/ima"; cp "${ima[0]}"/{key.pem,certificate.der} "$work/ima/"
  ima=(--with ima -D 'vtpm_ima_key /mnt/rpm/ima/key.pem' -D 'vtpm_ima_certificate /mnt/rpm/ima/certificate.der')
fi
case $SUITE in
  bookworm) release='%rhel 9'$'\n''%dist .el9'$'\n''%systemd_version 252';;
  *) release='%fedora 42'$'\n''%dist .fc42';;
esac
{ cat "$here/rpm/macros"; echo "$release"; } >"$build/etc/rpm/macros.lab"
# rpm before 4.20 leaves it to the distribution's macros to ask for debuginfo packages
[ "$SUITE" != bookworm ] || cat >>"$build/etc/rpm/macros.lab" <<'END'
%install %{?_enable_debug_packages:%{?buildsubdir:%{debug_package}}}\
%%install\
%{nil}
END
ln -sf bash "$build/usr/bin/sh"   # as in Fedora: scripts of rpm rely on it
cp "$here/rpm/pyproject.py" "$build/usr/lib/rpm/lab-pyproject.py"
cp "$here/rpm/pyproject.attr" "$build/usr/lib/rpm/fileattrs/labpyproject.attr"
install -D -m 644 "$here/rpm/rpmlint.toml" "$build/etc/xdg/rpmlint/lab.toml"

say "rpmbuild on $SUITE${fast:+ (no check)}" >&2
chown -R nobody:nogroup "$work"
# shellcheck disable=SC2016
as_nobody='ip link set lo up; exec setpriv --reuid nobody --regid nogroup --clear-groups'
# shellcheck disable=SC2016
as_nobody+=' env -i PATH="$PATH" LC_ALL=C.UTF-8 HOME=/mnt/rpm "$@"'
if ! in_build_root -b "$work:/mnt/rpm" unshare --net bash -ec "$as_nobody" - rpmbuild -D '_topdir /mnt/rpm' \
  ${fast:+--without check} ${ima[@]+"${ima[@]}"} -ba /mnt/rpm/python-swtpm.spec >"$work/log" 2>&1; then
  tail -n 60 "$work/log" >&2
  cp "$work/log" "$results/build.log"
  echo "rpm-build.sh: rpmbuild failed, see $results/build.log" >&2; exit 1
fi
grep -E '^(=+ |Wrote: ).*(passed|\.rpm)' "$work/log" >&2 || :
rm -f "$results"/*.rpm
cp "$work"/SRPMS/*.rpm "$work"/RPMS/*/*.rpm "$work/log" "$results/"; mv "$results/log" "$results/build.log"
if [ -z "$fast" ]; then
  say "rpmlint" >&2
  in_build_root -b "$results:/mnt/rpm" -b "$project/packaging:/mnt/packaging" bash -O extglob -ec \
    'rpmlint --strict -c /mnt/packaging/rpmlint.toml /mnt/rpm/!(*-debuginfo-*).rpm' >&2
fi
in_build_root -b "$results:/mnt/rpm" createrepo_c -q /mnt/rpm >&2
say "$(basename -a "$results"/*.rpm | tr '\n' ' ')" >&2
