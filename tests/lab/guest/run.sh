#!/bin/bash
# In the guest, in /root/in: install the project, run the command, pack /root/out onto the disk "out" and switch off.
# The command's output goes to the second serial line; a shell has the console.
export LAB=vm LAB_RESULTS=/root/out TERM=dumb LC_ALL=C.UTF-8
# shellcheck source=/dev/null
. ./settings   # MODE, ROWS, COLUMNS, SHELL_TERM, and what the caller hands on

if [ "$MODE" = shell ]; then
  ./install.sh >/dev/console 2>&1
  exec 3<>/dev/ttyS0   # kept open: the last close would forget the size
  stty sane rows "${ROWS:-24}" cols "${COLUMNS:-80}" <&3
  echo "the lab: systemd is process 1, /dev/cuse is real, changes are forgotten; exit ends it" >&3
  cd project && TERM=${SHELL_TERM:-vt100} setsid --ctty --wait bash -i <&3 >&3 2>&3
  rc=$?
else
  stty raw -echo </dev/ttyS1
  # a pipe as the command's output: confined domains may not write to a terminal or a file of root's
  { ./install.sh && cd project && exec bash ../command; } 2>&1 </dev/null | cat >/dev/ttyS1
  rc=${PIPESTATUS[0]}
fi
echo "$rc" >/root/out/rc
journalctl -b --no-pager -o short-monotonic >/root/out/journal 2>&1
cp /var/log/audit/audit.log /root/out/ 2>/dev/null
tar -C /root/out -cf "$LAB_OUT" .
sync
read -r up _ </proc/uptime; echo "LAB: rc=$rc at $up s" >/dev/console
systemctl poweroff --force --force
