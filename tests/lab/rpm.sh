#!/bin/bash
# rpm.sh [PYTEST ARGUMENT...] : build the RPMs and test them in the QEMU lab, over a reboot
#
# Builds the package of this tree (into build/rpm) and one with a lower version; a machine without the project gets both as repositories for
# dnf; tests/lab/rpm/test_package.py runs in it, then it is switched off and booted again for test_reboot.py. Variables: those of vm.sh.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
work=$(mktemp -d /tmp/vtpm-rpm-lab.XXXXXX); trap 'rm -rf "$work"' EXIT
"$here/rpm-build.sh" "$project/build/rpm"
"$here/rpm-build.sh" -f -V 0.0.1 "$work/repositories/previous"
cp -r "$project/build/rpm" "$work/repositories/current"; rm "$work"/repositories/*/*.src.rpm
machine() { # TEST-FILE ARGUMENT...
  "$here/vm.sh" -t 900 -r "$work/repositories" -d "$work/disk" python3 -m pytest -x -p no:cacheprovider "tests/lab/rpm/$1" "${@:2}"
}
machine test_package.py "$@"
machine test_reboot.py
