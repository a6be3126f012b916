#!/bin/bash
# need.sh GROUP... : sees to it that the system packages of these groups are installed
#   build    the development environment      install  `make install`
#   test     peers that the tests talk to     lint     what `make lint` runs beside Python's tools
#   qemu, uml, vm  the labs                   demo     `make run`
#   selinux  `make selinux`
# On Debian and its like, as root, what is missing is installed; else it says what to install and exits with 69.
# Where the packages have other names nothing is checked but that the essential commands are there.
set -euo pipefail

packages_of() {
  case $1 in
    build) echo make python3 python3-venv python3-dev gcc libc6-dev pkgconf libtpms-dev libsystemd-dev libfuse3-dev;;
    test)
      echo git faketime ima-evm-utils openssl swtpm swtpm-tools swtpm-dev tpm2-tools libtss2-tcti-device0
      echo libtss2-tcti-swtpm0 libtss2-tcti-mssim0 python3-tpm2-pytss tpm-tools trousers strace util-linux systemd udev
      echo procps mandoc fuse3 python3-pyfuse3 python3-cffi-backend gnutls-bin softhsm2 opensc qemu-system-x86
      echo user-mode-linux mmdebstrap patchelf debian-archive-keyring zsh fish;;
    install)
      echo make python3 python3-dev python3-pip python3-setuptools python3-wheel python3-cffi python3-cryptography
      echo python3-systemd gcc libc6-dev pkgconf libtpms-dev;;
    lint) echo shellcheck;;
    qemu)
      echo qemu-system-x86 qemu-utils seabios ovmf busybox-static fuse3 swtpm swtpm-tools libvirt-daemon-system
      echo libvirt-daemon-driver-qemu libvirt-clients;;
    uml)
      echo user-mode-linux mmdebstrap patchelf debian-archive-keyring systemd udev iproute2 kmod util-linux
      echo qemu-system-x86 seabios busybox-static;;
    vm) echo openssl mmdebstrap patchelf qemu-system-x86 e2fsprogs kmod util-linux debian-archive-keyring;;
    selinux) echo make python3 selinux-policy-dev checkpolicy policycoreutils semodule-utils;;
    demo) echo tpm2-tools libtss2-tcti-device0 swtpm-tools systemd udev util-linux fuse3;;
    *) echo "need.sh: no group $1" >&2; exit 64;;
  esac
}
commands_of() { # what stands for the packages where their names are unknown
  case $1 in
    build | install) echo make gcc pkg-config;;
    test) echo swtpm_ioctl tpm2_getrandom;;
    lint) echo shellcheck;;
    qemu) echo qemu-system-x86_64 qemu-img busybox virsh;;
    uml) echo linux.uml;;
    vm) echo mmdebstrap qemu-system-x86_64;;
    demo) echo tpm2_getrandom;;
    selinux) echo make checkmodule semodule_package;;
  esac
}

packages='' commands=''
for group; do packages+=" $(packages_of "$group")"; commands+=" $(commands_of "$group")"; done

if ! command -v apt-get >/dev/null; then
  missing=''
  for name in $commands; do command -v "$name" >/dev/null || missing+=" $name"; done
  [ -n "$missing" ] || exit 0
  printf 'need.sh: not found:%s\n  remedy: install what Debian calls%s\n' "$missing" "$packages" >&2; exit 69
fi

# a package counts as present also under a name with a suffix such as t64, or when another one provides it
is_there() { dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null; }
there=" $(is_there | sed -n 's/^installed //p' | sed 's/([^)]*)//g' | tr ',\n' '  ') "
missing=()
for name in $packages; do case $there in *" $name "* | *" ${name}t64 "*) ;; *) missing+=("$name");; esac; done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
  printf 'need.sh: packages are missing: %s\n  remedy: sudo apt-get install %s\n' "${missing[*]}" "${missing[*]}" >&2
  exit 69
fi

echo "== installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}")
log=$(mktemp); trap 'rm -f "$log"' EXIT
# an old package list may name versions that are gone: renew it, and go on with the old one if some other source of apt
# fails
update() { apt-get -q -o DPkg::Lock::Timeout=300 update || echo "apt-get update: $?"; }
if ! { update; "${install[@]}"; } </dev/null >"$log" 2>&1; then
  tail -n 30 "$log" >&2; printf 'need.sh: apt-get failed\n  remedy: see above, then run it again\n' >&2; exit 69
fi
