#!/bin/bash
# uml-init.sh: process 1 of the User-Mode Linux lab (started by uml.sh, never by hand)
#
# The root file system is the host's own, read-only; a tmpfs above it takes every change, so nothing of the host is
# altered.
# All that comes in or goes out is the scratch folder of uml.sh, here /lab: skeleton/ (laid over the root), fstab,
# settings, command, init (this file), the kernel's modules, out/ (results), up (seconds the boot took), rc (exit
# status), dmesg.
# A process costs a tenth of a second in this machine: hence one `mount -a`, and built-ins where the shell has them.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
umask 022
power_off() { sync; echo o >/proc/sysrq-trigger; sleep 60; }
die() { echo "lab: $*" >/dev/console; power_off; }
load() { insmod "$1" || die "$1 does not load"; }

if [ "${1:-}" != second ]; then
  # First life, in the host's root: put the new root together and move into it.
  # from the kernel's command line: what the kernel does not know it hands to process 1
  : "${lab_scratch:?}"
  mount -t proc proc /proc || exit 1
  if [ -n "${lab_probe:-}" ]; then   # asked by uml-kernel.sh
    mount -t hostfs -o "$lab_scratch" none /mnt && : >/mnt/first-process
    power_off
  fi
  load "$lab_scratch/overlay.ko"
  { mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/changes /mnt/overlay /mnt/root /mnt/lab /mnt/project; } ||
    die "no tmpfs"
  mount -t hostfs -o "$lab_scratch" none /mnt/lab || die "no $lab_scratch"
  mount -t overlay -o lowerdir=/mnt/lab/skeleton:/,upperdir=/mnt/changes,workdir=/mnt/overlay overlay /mnt/root ||
    die "no overlay"
  mount -a -T /mnt/lab/fstab || die "not all of $lab_scratch/fstab could be mounted"
  { cd /mnt/root && pivot_root . mnt && umount -l /mnt; } || die "no pivot_root"
  exec chroot . /bin/bash /lab/init second
fi

# shellcheck source=/dev/null
. /lab/settings   # PROJECT, INTERACTIVE, ROWS, COLUMNS
echo vtpm-uml >/proc/sys/kernel/hostname
ip link set lo up
udevd=/lib/systemd/systemd-udevd; [ -x "$udevd" ] || udevd=/usr/lib/systemd/systemd-udevd
"$udevd" --daemon 2>/dev/console || die "systemd-udevd does not start"
load /lab/fuse.ko; load /lab/cuse.ko
udevadm settle --timeout=20
[ -c /dev/cuse ] || die "no /dev/cuse"

read -r up _ </proc/uptime; echo "$up" >/lab/up
export HOME=/root TMPDIR=/tmp LAB=uml LAB_RESULTS=/lab/out USER=root LOGNAME=root PATH="$PROJECT/.venv/bin:$PATH"
cd "$PROJECT" || die "no $PROJECT"
if [ "$INTERACTIVE" = 1 ]; then
  stty sane rows "$ROWS" cols "$COLUMNS" </dev/tty0
  setsid --ctty --wait bash /lab/command <>/dev/tty0 1>&0 2>&0
else
  stty raw -echo </dev/ttyS0; stty raw -echo </dev/ttyS1
  setsid --wait bash /lab/command </dev/null >/dev/ttyS0 2>/dev/ttyS1
fi
echo $? >/lab/rc
dmesg >/lab/dmesg 2>/dev/null
power_off
