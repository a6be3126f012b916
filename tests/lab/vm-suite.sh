# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by the other vm-*.sh: which Debian, which packages, where the image lives
set -euo pipefail
umask 022
SUITE=${SUITE:-bookworm}          # bookworm: systemd 252; trixie: 257; sid
case $SUITE in
  bookworm | trixie | sid) ;;
  *) echo "vm-suite.sh: SUITE is $SUITE, expected bookworm, trixie or sid" >&2; exit 64;;
esac
LAB_MACHINE=${LAB_MACHINE:-uml}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); project=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lab/uml-kernel.sh
. "$here/uml-kernel.sh"
image_dir=$LAB_CACHE/$SUITE       # rootfs/ buildroot/ root.img vmlinuz inputs payload/
root=$image_dir/rootfs build=$image_dir/buildroot

# in the machine
base_pkgs=systemd,systemd-sysv,udev,dbus,kmod,mount,procps,passwd,e2fsprogs,util-linux,iproute2,sudo,strace
base_pkgs+=,python3,python3-cffi-backend,python3-cryptography,python3-systemd,python3-pyfuse3,python3-pytest
base_pkgs+=,libtpms0,tpm2-tools,tpm-tools,trousers,swtpm,swtpm-tools
base_pkgs+=,policycoreutils,selinux-policy-default,selinux-utils,semodule-utils,auditd
base_pkgs+=,fuse3,rpm,dnf,ima-evm-utils,keyutils
# tcti libraries, by the name of each suite
t64=t64; [ "$SUITE" != bookworm ] || t64=''
[ "$SUITE" = bookworm ] || base_pkgs+=,systemd-cryptsetup   # systemd-cryptenroll, a package of its own
for tcti in device swtpm mssim; do base_pkgs+=,libtss2-tcti-${tcti}0$t64; done
# added in the build root only
build_pkgs="gcc libc6-dev make bzip2 python3-dev python3-cffi python3-setuptools python3-wheel python3-pip libtpms-dev"
build_pkgs+=" pkgconf selinux-policy-dev checkpolicy"
build_pkgs+=" python3-packaging python3-hypothesis rpmlint createrepo-c file elfutils"

say() { echo "== $SECONDS s: $*"; }

# in_build_root [-b HOSTDIR:DIR]... COMMAND... : run it in the build root, with HOSTDIR visible as DIR; the mounts go
# with it
in_build_root() {
  local binds=() option OPTIND=1
  while getopts b: option; do case $option in b) binds+=("$OPTARG");; *) return 64;; esac; done
  shift $((OPTIND - 1))
  # shellcheck disable=SC2016
  unshare --mount --pid --fork bash -ec '
    root=$1; n=$2; shift 2; mount -t proc proc "$root/proc"
    for d in null zero full random urandom; do
      [ -c "$root/dev/$d" ] || { :>"$root/dev/$d"; mount --bind "/dev/$d" "$root/dev/$d"; }
    done
    mkdir -p "$root/dev/pts"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -sf pts/ptmx "$root/dev/ptmx"
    while [ "$n" -gt 0 ]; do
      mkdir -p "$root/${1#*:}"; mount --bind "${1%%:*}" "$root/${1#*:}"; shift; n=$((n - 1))
    done
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8; exec chroot "$root" "$@"' \
    - "$build" "${#binds[@]}" ${binds[@]+"${binds[@]}"} "$@" </dev/null
}
