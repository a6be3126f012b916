#!/bin/bash
# vm.sh [-t SECONDS] [-o RESULTS] [-k CMDLINE] [-r FOLDER] [-d DISK] COMMAND ARGUMENT... : run one command in the QEMU lab
#
# A machine with Debian's kernel, systemd as process 1, udev and SELinux boots in software (no KVM needed) from an image that
# is made once and kept. The project is installed there by `make install`, then COMMAND runs as root in a folder that holds
# tests/, tools/, etc/ and pyproject.toml. Its output comes here, its exit status is this script's. What it changes is forgotten, but for files in
# $LAB_RESULTS, which come back to RESULTS with the journal. Without COMMAND: an interactive shell on the serial console.
#   -t SECONDS  limit from the boot on (default 600, none for the shell); exit status 124 when it is reached
#   -o RESULTS  folder for the files of $LAB_RESULTS, the journal, audit.log and the console's text
#   -k CMDLINE  more for the kernel's command line
#   -r FOLDER   instead of `make install`: dnf knows the repositories FOLDER/current and, disabled, FOLDER/previous
#   -d DISK     boot this copy of the image, made if it is missing, and keep what changes on it: for a test over a reboot
# Accounts: root, vtpm, lab-member (group vtpm), lab-operator (groups vtpm and vtpm-admin), lab-outsider (neither).
# Variables: SUITE (bookworm, trixie, sid), LAB_SELINUX=enforcing (default permissive), LAB_CACHE, LAB_ENV (names of variables to hand
# on), MEM (MiB), SMP (default 1: a second emulated processor makes everything slower), ACCEL, BOOT_LIMIT (seconds until the machine must
# have spoken; it is then started again, twice).
# Exit status 125: the lab itself failed.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lab/vm-suite.sh
. "$here/vm-suite.sh"
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
limit=600 results='' extra='' mode=command repositories='' disk=''
while getopts t:o:k:r:d:h option; do
  case $option in t) limit=$OPTARG;; o) results=$OPTARG;; k) extra=$OPTARG;; r) repositories=$OPTARG;; d) disk=$OPTARG;; h) usage; exit 0;; *) usage >&2; exit 64;; esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
  mode=shell
  { [ -t 0 ] && [ -t 1 ]; } || { echo "vm.sh: a shell needs a terminal; give a command instead" >&2; exit 64; }
fi
for tool in qemu-system-x86_64 mmdebstrap mkfs.ext4; do
  command -v $tool >/dev/null || { printf 'vm.sh: no %s here\n  remedy: tools/need.sh vm\n' $tool >&2; exit 125; }
done
"$here/vm-image.sh" >&2 || exit 125
scratch=$(mktemp -d /tmp/vtpm-vm.XXXXXX)
machine='' watcher=''
# shellcheck disable=SC2317
end_all() { local pid; for pid in $machine $watcher; do kill "$pid" || :; wait "$pid" || :; done 2>/dev/null; rm -rf "$scratch"; }
trap end_all EXIT
trap 'exit 130' INT; trap 'exit 143' TERM

# what `make install` lays down, made with the guest's own Python; kept until a source changes
payload=$image_dir/payload
sources=$(cd "$project" && find swtpm_svc packaging etc docs/man tools Makefile pyproject.toml setup.py -type f \
  ! -name '*.py[co]' ! -name '*.so' ! -name '*.o' ! -name _libtpms.c -print0 2>/dev/null | sort -z | xargs -0 sha256sum | sha256sum)
exec 9>"$image_dir.lock"; flock 9
if [ -z "$repositories" ] && { [ ! -f "$payload.tar" ] || [ "$sources" != "$(cat "$payload.sources" 2>/dev/null)" ]; }; then
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
tar -C "$project" --exclude=__pycache__ --owner=0 --group=0 -cf "$scratch/in/project.tar" tests tools etc docs pyproject.toml
{ printf 'MODE=%q SHELL_TERM=%q\n' "$mode" "${TERM:-vt100}"
  if [ "$mode" = shell ]; then read -r rows columns < <(stty size); printf 'ROWS=%q COLUMNS=%q\n' "$rows" "$columns"; fi
  for variable in CI ${LAB_ENV:-}; do [ -z "${!variable+x}" ] || printf 'export %s=%q\n' "$variable" "${!variable}"; done; } >"$scratch/in/settings"
{ printf 'exec'; printf ' %q' "$@"; echo; } >"$scratch/in/command"
tar -C "$scratch/in" -cf "$scratch/in.tar" .; truncate -s %1M "$scratch/in.tar"
truncate -s 64M "$scratch/out.tar"

drive="file=$image_dir/root.img,snapshot=on"
if [ -n "$disk" ]; then
  [ -f "$disk" ] || cp --sparse=always "$image_dir/root.img" "$disk"
  drive="file=$disk"
fi
# sid's policy denies systemd-tmpfiles the directories that it is to clean, 15 minutes after the boot
[ "$SUITE" != sid ] || extra+=' systemd.mask=systemd-tmpfiles-clean.timer'
selinux=0; [ "${LAB_SELINUX:-permissive}" != enforcing ] || selinux=1
# root is the only NVMe disk: newer kernels number several of them in any order
# shellcheck disable=SC2054
qemu=(qemu-system-x86_64 -machine q35 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp "${SMP:-1}" -m "${MEM:-1536}"
  -nodefaults -display none -no-reboot -monitor none -kernel "$image_dir/vmlinuz"
  -append "console=ttyS0 root=/dev/nvme0n1 rootfstype=ext4 rw lsm=lockdown,yama,integrity,selinux enforcing=$selinux mitigations=off nokaslr tsc=reliable audit=1 audit_backlog_limit=8192 panic=-1 quiet systemd.firstboot=0 systemd.show_status=0 lab.mode=$mode $extra"
  -drive "$drive,if=none,id=d0,format=raw,cache=unsafe" -device nvme,drive=d0,serial=root
  -drive "file=$scratch/in.tar,if=none,id=d1,format=raw,readonly=on" -device virtio-blk-pci,drive=d1,serial=in
  -drive "file=$scratch/out.tar,if=none,id=d2,format=raw,cache=unsafe" -device virtio-blk-pci,drive=d2,serial=out
  -device virtio-rng-pci)
started() { grep -qa 'LAB: start' "$scratch/console.log" 2>/dev/null; }
alive() { kill -0 "$machine" 2>/dev/null; }
say "boot of $SUITE, SELinux ${LAB_SELINUX:-permissive}" >&2
rc=0; : >"$scratch/qemu.log"
if [ "$mode" = shell ]; then
  terminal=$(stty -g); stty raw -echo
  "${qemu[@]}" -chardev "stdio,id=console,signal=off,logfile=$scratch/console.log" -serial chardev:console || rc=$?
  stty "$terminal"
else
  for try in 1 2 3; do   # now and then a machine in software hangs before its first line
    : >"$scratch/output"
    timeout -k 5 "$limit" "${qemu[@]}" -serial "file:$scratch/console.log" -serial "file:$scratch/output" </dev/null >"$scratch/qemu.log" 2>&1 & machine=$!
    waited=0
    while alive && ! started && [ "$waited" -lt "${BOOT_LIMIT:-150}" ]; do sleep 1; waited=$((waited + 1)); done
    if started || ! alive; then break; fi
    echo "vm.sh: boot $try: nothing after $waited s" >&2
    kill "$machine"; wait "$machine" || :
  done
  say "the machine is up" >&2
  tail -n +1 -f --pid="$machine" -s 0.3 "$scratch/output" & watcher=$!
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
echo "vm.sh: the lab ended without a result (qemu: $rc)" >&2
tail -n 20 "$scratch/qemu.log" "$scratch/console.log" >&2 || :
exit 125
