#!/bin/bash
# uml.sh [-t SECONDS] [-o RESULTS] [-v] COMMAND ARGUMENT... : run one command in the User-Mode Linux lab
#
# A Linux of its own (Debian's user-mode-linux) boots in seconds on the host's root file system, with a real /dev/cuse
# and a real systemd-udevd. COMMAND runs there as root in the project's folder, with .venv/bin in its PATH. Its output
# comes here, its exit status is this script's. What it changes is forgotten, but for files in $LAB_RESULTS, which come
# back to RESULTS. /tmp, /run and /var/lib/vtpm are empty tmpfs there. Without COMMAND: an interactive shell.
#   -t SECONDS  limit for everything (default 300, none for the shell); exit status 124 when it is reached
#   -o RESULTS  folder for the files of $LAB_RESULTS and the kernel's messages
#   -v          say how long the boot took
# Accounts: root, vtpm, lab-member (group vtpm), lab-operator (groups vtpm and vtpm-admin), lab-outsider (neither).
# Variables: LAB_MEM, in MiB (default 512; as much room is needed in TMPDIR or /dev/shm); LAB_ENV, names of variables to
# hand on; LAB_SHELL_START, a command line to run before the shell.
# Which kernel, and which variables that takes: uml-kernel.sh. Exit status 125: the lab itself failed.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd); project=$(cd "$here/../.." && pwd)

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
limit=300 results='' verbose=0 interactive=0
while getopts t:o:vh option; do
  case $option in t) limit=$OPTARG;; o) results=$OPTARG;; v) verbose=1;; h) usage; exit 0;; *) usage >&2; exit 64;; esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
  interactive=1
  { [ -t 0 ] && [ -t 1 ]; } || { echo "uml.sh: a shell needs a terminal; give a command instead" >&2; exit 64; }
fi
# shellcheck source=tests/lab/uml-kernel.sh
. "$here/uml-kernel.sh"
uml_kernel any || exit 125

scratch=$(mktemp -d "/tmp/vtpm-uml.XXXXXX")
running=''
trap '[ -z "$running" ] || { kill "$running"; wait "$running"; } 2>/dev/null || :; rm -rf "$scratch"' EXIT
trap 'exit 130' INT; trap 'exit 143' TERM

# what is laid over the host's files: accounts, udev rules, mount points
skeleton=$scratch/skeleton
mkdir -p "$scratch/out" \
  "$skeleton"/{etc/udev/rules.d,usr/libexec/vtpm,var/lib/vtpm,dev,proc,sys,run,tmp,var/tmp,mnt,root,lab}
# the kernel takes no path with a space in it
cp "$here/uml-init.sh" "$scratch/init"
cp "$UML_MODULES"/kernel/fs/{overlayfs/overlay,fuse/fuse,fuse/cuse}.ko "$scratch/" ||
  { echo "uml.sh: not all modules are in $UML_MODULES" >&2; exit 125; }
chmod 755 "$scratch" "$skeleton"; chmod 777 "$scratch/out"; chmod 700 "$skeleton/root"
cp /etc/passwd /etc/group "$skeleton/etc/"
for file in "$project"/packaging/sysusers*/*.conf "$project"/packaging/*sysusers*; do
  if [ -f "$file" ] && command -v systemd-sysusers >/dev/null; then
    systemd-sysusers --root="$skeleton" "$file" >/dev/null 2>&1 || :
  fi
done
account() { # FILE LINE : unless the name is there
  grep -q "^${2%%:*}:" "$skeleton/etc/$1" || echo "$2" >>"$skeleton/etc/$1"
}
account group vtpm:x:960:; account group vtpm-admin:x:961:
vtpm_gid=$(awk -F: '$1 == "vtpm" {print $3}' "$skeleton/etc/group")
account passwd "vtpm:x:960:$vtpm_gid:TPM service:/:/usr/sbin/nologin"
vtpm_uid=$(awk -F: '$1 == "vtpm" {print $3}' "$skeleton/etc/passwd")
number=9001
for person in lab-member lab-operator lab-outsider; do
  account group "$person:x:$number:"; account passwd "$person:x:$number:$number::/tmp:/bin/bash"; number=$((number + 1))
done
sed -i -E -e '/^vtpm:/ s/(:?)$/\1,lab-member,lab-operator/' -e '/^vtpm-admin:/ s/(:?)$/\1,lab-operator/' \
  -e 's/:,/:/' "$skeleton/etc/group"
cp "$project"/packaging/udev/*.rules "$skeleton/etc/udev/rules.d/" 2>/dev/null || :
printf '#!/bin/sh\nexec "%s/.venv/bin/python" -m swtpm_svc.service.systemd.udev_properties "$@"\n' "$project" \
  >"$skeleton/usr/libexec/vtpm/vtpm-udev-properties"
chmod 755 "$skeleton/usr/libexec/vtpm/vtpm-udev-properties"

# mounted by uml-init.sh in one go. The project is bound aside and back, as it may lie in /tmp
mount_point=${project// /\\040}
cat >"$scratch/fstab" <<FSTAB
/mnt/root$mount_point  /mnt/project            none     bind
proc               /mnt/root/proc          proc     nosuid,nodev,noexec
sysfs              /mnt/root/sys           sysfs    nosuid,nodev,noexec
devtmpfs           /mnt/root/dev           devtmpfs mode=755
devpts             /mnt/root/dev/pts       devpts   mode=620,gid=5,ptmxmode=666,X-mount.mkdir
tmpfs              /mnt/root/dev/shm       tmpfs    mode=1777,nosuid,nodev,X-mount.mkdir
tmpfs              /mnt/root/run           tmpfs    mode=755,nosuid,nodev
tmpfs              /mnt/root/run/vtpm      tmpfs    mode=755,uid=$vtpm_uid,gid=$vtpm_gid,nosuid,nodev,X-mount.mkdir
tmpfs              /mnt/root/tmp           tmpfs    mode=1777,nosuid,nodev
tmpfs              /mnt/root/var/tmp       tmpfs    mode=1777,nosuid,nodev
tmpfs              /mnt/root/var/lib/vtpm  tmpfs    mode=750,uid=$vtpm_uid,gid=$vtpm_gid,nosuid,nodev
/mnt/lab           /mnt/root/lab           none     bind
/mnt/project       /mnt/root$mount_point       none     bind,X-mount.mkdir
FSTAB

{ printf 'PROJECT=%q INTERACTIVE=%q\n' "$project" "$interactive"
  [ "$interactive" = 0 ] || read -r rows columns < <(stty size)
  printf 'ROWS=%q COLUMNS=%q\n' "${rows:-24}" "${columns:-80}"; } >"$scratch/settings"
{ [ -t 1 ] || export TERM=dumb
  for variable in CI TERM ${LAB_ENV:-}; do
    [ -z "${!variable+x}" ] || printf 'export %s=%q\n' "$variable" "${!variable}"
  done
  if [ "$interactive" = 1 ]; then
    echo 'echo "User-Mode Linux lab: /dev/cuse is real, changes are forgotten; exit ends it."'
    [ -z "${LAB_SHELL_START:-}" ] || printf '%s\n' "$LAB_SHELL_START"
    echo 'exec bash -i'
  else
    printf 'exec'; printf ' %q' "$@"; echo
  fi; } >"$scratch/command"

memory=${LAB_MEM:-512}
backing=$(uml_memory "$memory")
machine=("$UML_KERNEL" "${UML_OPTIONS[@]}" "mem=${memory}M" "umid=vtpm$$" "uml_dir=$scratch"
  root=/dev/root rootfstype=hostfs rootflags=/ ro quiet loglevel=3
  "init=$scratch/init" "lab_scratch=$scratch" con=null)
start=$(date +%s%N) rc=0
if [ "$interactive" = 1 ]; then
  terminal=$(stty -g)
  TMPDIR=$backing "${machine[@]}" con0=fd:0,fd:1 ssl=null 2>"$scratch/console.log" || rc=$?
  stty "$terminal"
else
  # the command's outputs leave by two serial lines and pipes: UML cannot wait on plain files
  mkfifo "$scratch/1" "$scratch/2"
  cat "$scratch/1" & copiers=($!); cat "$scratch/2" >&2 & copiers+=($!)
  TMPDIR=$backing timeout -k 5 "$limit" "${machine[@]}" con0=null,fd:5 ssl0=null,fd:3 ssl1=null,fd:4 \
    3>"$scratch/1" 4>"$scratch/2" 5>"$scratch/kernel.log" </dev/null >"$scratch/console.log" 2>&1 & running=$!
  wait "$running" || rc=$?
  running=''; wait "${copiers[@]}"
fi
if [ "$verbose" != 0 ]; then
  took_ms=$(( ($(date +%s%N) - start) / 1000000 ))
  echo "uml.sh: booted in $(cat "$scratch/up" 2>/dev/null || echo '?') s, $took_ms ms in all" >&2
fi
if [ -n "$results" ]; then
  mkdir -p "$results"
  cp -r "$scratch/out/." "$results/"
  cp "$scratch/dmesg" "$results/" 2>/dev/null || :
fi
if [ -s "$scratch/rc" ]; then exit "$(cat "$scratch/rc")"; fi
case $rc in 124 | 137) echo "uml.sh: no end after $limit s" >&2; exit 124;; esac
tail -n 20 "$scratch/console.log" "$scratch/kernel.log" >&2 || :
echo "uml.sh: the lab ended without a result (${UML_KERNEL##*/}: $rc)" >&2
exit 125
