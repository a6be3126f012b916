#!/bin/bash
# rpm.sh [PYTEST ARGUMENT...] : build the RPMs and test them in the lab with systemd, over two reboots
#
# Builds the package of this tree, with IMA signatures by a key of its own, and one with a lower version; a machine
# without the project gets both as repositories for dnf. tests/lab/rpm/test_package.py runs in it, then it is switched
# off and booted again for test_reboot.py, and once more in QEMU, with IMA appraisal in force, for what no User-Mode
# Linux has: test_ima.py, and what tests/lab/vm marks as only_qemu.
# Variables: those of vm.sh; LAB_RESULTS, a folder for the results of each boot; LAB_QEMU=no does without the boot in
# QEMU.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
work=$(mktemp -d /tmp/vtpm-rpm-lab.XXXXXX); trap 'rm -rf "$work"' EXIT
for folder in "$work/ima" "$work/repositories/host"; do   # the package's key, and one of the host's own
  mkdir -p "$folder"
  openssl req -new -x509 -newkey rsa:2048 -nodes -sha256 -days 10 -subj '/CN=IMA of the lab' \
    -addext basicConstraints=critical,CA:FALSE \
    -addext keyUsage=digitalSignature -addext subjectKeyIdentifier=hash -addext authorityKeyIdentifier=keyid \
    -keyout "$folder/key.pem" -outform DER -out "$folder/certificate.der" 2>/dev/null
done
"$here/rpm-build.sh" -i "$work/ima" "$work/repositories/current"
"$here/rpm-build.sh" -f -V 0.0.1 "$work/repositories/previous"
rm "$work"/repositories/*/*.src.rpm
in_build_root -b "$work:/mnt/rpm" -b "$project/packaging:/mnt/packaging" \
  bash -ec '/mnt/packaging/ima/sign-rpm /mnt/rpm/ima/key.pem /mnt/rpm/repositories/current/*.rpm' >&2
machine() { # NAME CMDLINE PYTEST-ARGUMENT...
  "$here/vm.sh" -t 1500 ${LAB_RESULTS:+-o "$LAB_RESULTS/$1"} -r "$work/repositories" -d "$work/disk" -k "$2" \
    python3 -m pytest -x --durations=10 -p no:cacheprovider "${@:3}"
}
machine package '' tests/lab/rpm/test_package.py "$@"
machine reboot '' tests/lab/rpm/test_reboot.py
[ "${LAB_QEMU:-yes}" = yes ] || exit 0
LAB_MACHINE=qemu machine qemu ima_appraise=enforce -m only_qemu tests/lab/vm tests/lab/rpm/test_ima.py
