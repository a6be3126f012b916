#!/bin/bash
# vm.sh [-t SECONDS] [-o RESULTS] [-k CMDLINE] [-r FOLDER] [-d DISK] COMMAND ARGUMENT... : run one command in a machine
# with systemd
#
# A machine with systemd as process 1, udev, journald, SELinux and a real /dev/cuse boots from an image that is made
# once and kept: in User-Mode Linux in seconds, or in QEMU, in software (no KVM needed), with Debian's own kernel, which
# has what the other lacks: IMA, vtpm_proxy.
# The project is installed there by `make install`, then COMMAND runs as root in a folder that holds tests/, tools/,
# etc/ and pyproject.toml. Its output comes here, its exit status is this script's. What it changes is forgotten, but
# for files in $LAB_RESULTS, which come back to RESULTS with the journal. Without COMMAND: an interactive shell on the
# serial console.
#   -t SECONDS  limit from the boot on (default 600, none for the shell); exit status 124 when it is reached
#   -o RESULTS  folder for the files of $LAB_RESULTS, the journal, audit.log and the console's text
#   -k CMDLINE  more for the kernel's command line
#   -r FOLDER   instead of `make install`: dnf knows the repositories FOLDER/current and, disabled, FOLDER/previous
#   -d DISK     boot this copy of the image, made if need be, and keep what changes on it: for a test over a reboot
# Accounts: root, vtpm, lab-member (group vtpm), lab-operator (groups vtpm and vtpm-admin), lab-outsider (neither).
# Variables: LAB_MACHINE (uml or qemu, default uml), SUITE (bookworm, trixie, sid), LAB_SELINUX=enforcing (default
# permissive), LAB_CACHE, LAB_ENV (names of variables to hand on), MEM (MiB); for QEMU: SMP (default 1: a second
# emulated processor makes everything slower), ACCEL, BOOT_LIMIT (seconds until the machine must have spoken; it is then
# started again, twice).
# Exit status 125: the lab itself failed.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
limit=600 results='' extra='' mode=command repositories='' disk=''
while getopts t:o:k:r:d:h option; do
  case $option in
    t) limit=$OPTARG;; o) results=$OPTARG;; k) extra=$OPTARG;; r) repositories=$OPTARG;; d) disk=$OPTARG;;
    h) usage; exit 0;;
    *) usage >&2; exit 64;;
  esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
  mode=shell
  { [ -t 0 ] && [ -t 1 ]; } || { echo "vm.sh: a shell needs a terminal; give a command instead" >&2; exit 64; }
fi
tools='mmdebstrap mkfs.ext4'
case $LAB_MACHINE in
  uml) ;;
  qemu) tools+=' qemu-system-x86_64';;
  *) echo "vm.sh: LAB_MACHINE is $LAB_MACHINE, expected uml or qemu" >&2; exit 64;;
esac
for tool in $tools; do
  command -v "$tool" >/dev/null || { printf 'vm.sh: no %s here\n  remedy: tools/need.sh vm\n' "$tool" >&2; exit 125; }
done
if [ "$LAB_MACHINE" = uml ]; then uml_kernel newest || exit 125; fi
"$here/vm-image.sh" >&2 || exit 125
scratch=$(mktemp -d /tmp/vtpm-vm.XXXXXX)
machine='' watcher=''
# shellcheck disable=SC2317
end_all() {
  local pid
  for pid in $machine $watcher; do kill "$pid" || :; wait "$pid" || :; done 2>/dev/null
  rm -rf "$scratch"
}
trap end_all EXIT
trap 'exit 130' INT; trap 'exit 143' TERM

# what `make install` lays down, made with the guest's own Python; kept until a source changes
payload=$image_dir/payload
sources=$(cd "$project" && find swtpm_svc packaging etc docs/man tools Makefile pyproject.toml setup.py -type f \
  ! -name '*.py[co]' ! -name '*.so' ! -name '*.o' ! -name _libtpms.c -print0 2>/dev/null |
  sort -z | xargs -0 sha256sum | sha256sum)
exec 9>"$image_dir.lock"; flock 9
if [ -z "$repositories" ] &&
  { [ ! -f "$payload.tar" ] || [ "$sources" != "$(cat "$payload.sources" 2>/dev/null)" ]; }; then
  say "make install in the build root" >&2
  rm -rf "$payload"; mkdir -p "$payload"
  in_build_root -b "$project:/mnt/project" -b "$payload:/mnt/out" \
    make -s -C /mnt/project install DESTDIR=/mnt/out PREFIX=/usr PYTHON=/usr/bin/python3 >"$payload.log" 2>&1 ||
    { tail -n 30 "$payload.log" >&2; echo "vm.sh: make install failed" >&2; exit 125; }
  say "make selinux in the build root" >&2
  rm -rf "$payload.selinux"; mkdir -p "$payload.selinux"
  in_build_root -b "$project:/mnt/project" -b "$payload.selinux:/mnt/selinux" \
    make -s -C /mnt/project selinux SELINUX=/mnt/selinux PYTHON=/usr/bin/python3 >"$payload.log" 2>&1 ||
    { tail -n 30 "$payload.log" >&2; echo "vm.sh: make selinux failed" >&2; exit 125; }
  tar -C "$payload" --owner=0 --group=0 -cf "$payload.tar" .
  echo "$sources" >"$payload.sources"
fi
mkdir "$scratch/in"
cp "$here/guest/run.sh" "$scratch/in/"
if [ -n "$repositories" ]; then
  tar -C "$repositories" --owner=0 --group=0 -cf "$scratch/in/repositories.tar" .
  cp "$here/guest/repositories.sh" "$scratch/in/install.sh"
else
  cp "$payload.tar" "$payload.selinux/vtpm.pp" "$here/guest/install.sh" "$scratch/in/"
fi
exec 9>&-
tar -C "$project" --exclude=__pycache__ --owner=0 --group=0 -cf "$scratch/in/project.tar" \
  tests tools etc docs README.md pyproject.toml
{ printf 'MODE=%q SHELL_TERM=%q\nexport LAB_MACHINE=%q\n' "$mode" "${TERM:-vt100}" "$LAB_MACHINE"
  if [ "$mode" = shell ]; then read -r rows columns < <(stty size); printf 'ROWS=%q COLUMNS=%q\n' "$rows" "$columns"; fi
  for variable in CI ${LAB_ENV:-}; do
    [ -z "${!variable+x}" ] || printf 'export %s=%q\n' "$variable" "${!variable}"
  done; } >"$scratch/in/settings"
{ printf 'exec'; printf ' %q' "$@"; echo; } >"$scratch/in/command"
tar -C "$scratch/in" -cf "$scratch/in.tar" .; truncate -s %1M "$scratch/in.tar"
truncate -s 64M "$scratch/out.tar"

if [ -n "$disk" ] && [ ! -f "$disk" ]; then cp --sparse=always "$image_dir/root.img" "$disk"; fi
# sid's policy denies systemd-tmpfiles the directories that it is to clean, 15 minutes after the boot
[ "$SUITE" != sid ] || extra+=' systemd.mask=systemd-tmpfiles-clean.timer'
selinux=0; [ "${LAB_SELINUX:-permissive}" != enforcing ] || selinux=1
cmdline="rootfstype=ext4 rw lsm=lockdown,yama,integrity,selinux enforcing=$selinux audit=1 audit_backlog_limit=8192"
cmdline+=" panic=-1 quiet"
cmdline+=" systemd.firstboot=0 systemd.show_status=0 lab.mode=$mode $extra"
memory=${MEM:-1536}
# shellcheck source=tests/lab/vm-uml.sh
. "$here/vm-$LAB_MACHINE.sh"   # machine_start, which sets $machine and $watcher, and machine_shell
say "boot of $SUITE on $LAB_MACHINE, SELinux ${LAB_SELINUX:-permissive}" >&2
rc=0; : >"$scratch/machine.log"
if [ "$mode" = shell ]; then
  terminal=$(stty -g); stty raw -echo
  machine_shell || rc=$?
  stty "$terminal"
else
  machine_start
  wait "$machine" || rc=$?
  wait "$watcher" || :
  machine='' watcher=''
  sed -n 's/\r$//; s/^.*\(LAB: [ir].*\)/== \1/p' "$scratch/console.log" >&2
fi
mkdir "$scratch/out"; tar -C "$scratch/out" -xf "$scratch/out.tar" 2>/dev/null || :
if [ -n "$results" ]; then mkdir -p "$results"; cp -r "$scratch/out/." "$scratch/console.log" "$results/"; fi
say "end" >&2
if [ -s "$scratch/out/rc" ]; then exit "$(cat "$scratch/out/rc")"; fi
case $rc in 124 | 137) echo "vm.sh: no end after $limit s" >&2; exit 124;; esac
tail -n 20 "$scratch/machine.log" "$scratch/console.log" >&2 || :
echo "vm.sh: the lab ended without a result ($LAB_MACHINE: $rc)" >&2
exit 125
