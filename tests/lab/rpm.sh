#!/bin/bash
# rpm.sh [PYTEST ARGUMENT...] : build the RPMs and test them in the QEMU lab, over two reboots
#
# Builds the package of this tree, with IMA signatures by a key of its own, and one with a lower version; a machine without the project gets
# both as repositories for dnf. tests/lab/rpm/test_package.py runs in it, then it is switched off and booted again for test_reboot.py, and
# once more with IMA appraisal in force for test_ima.py. Variables: those of vm.sh.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
work=$(mktemp -d /tmp/vtpm-rpm-lab.XXXXXX); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/ima"
openssl req -new -x509 -newkey rsa:2048 -nodes -sha256 -days 10 -subj '/CN=IMA of the lab' -addext basicConstraints=critical,CA:FALSE \
  -addext keyUsage=digitalSignature -addext subjectKeyIdentifier=hash -addext authorityKeyIdentifier=keyid \
  -keyout "$work/ima/key.pem" -outform DER -out "$work/ima/certificate.der" 2>/dev/null
"$here/rpm-build.sh" -i "$work/ima" "$work/repositories/current"
"$here/rpm-build.sh" -f -V 0.0.1 "$work/repositories/previous"
rm "$work"/repositories/*/*.src.rpm
machine() { # TEST-FILE CMDLINE [PYTEST ARGUMENT...]
  LAB_SELINUX=enforcing "$here/vm.sh" -t 900 -r "$work/repositories" -d "$work/disk" -k "$2" \
    python3 -m pytest -x -p no:cacheprovider "tests/lab/rpm/$1" "${@:3}"
}
machine test_package.py '' "$@"
machine test_reboot.py ''
machine test_ima.py ima_appraise=enforce
