#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of a guest with a TPM 1.2 and Debian's own tcsd and tpm-tools. Its second serial line gets what the commands
# in /orders print, each with its words before and its exit status behind; then the machine ends.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb ip link set lo up
$bb stty -F /dev/ttyS1 raw -echo
exec <>/dev/ttyS1 >&0 2>&1
finish() { $bb echo end; $bb sync; $bb poweroff -f; $bb sleep 1000000; }
[ -c /dev/tpm0 ] || { $bb echo 'no /dev/tpm0'; finish; }
$bb chown tss:tss /dev/tpm0
/usr/sbin/tcsd -f &
tries=0
until $bb grep -q ':7533 .* 0A ' /proc/net/tcp; do  # 30003, listening
  tries=$((tries + 1))
  [ $tries -lt 600 ] || { $bb echo 'no tcsd'; finish; }
  $bb sleep 0.1
done
while read -r order <&3; do
  $bb echo "+ $order"
  $order
  $bb echo "= $?"
done 3</orders
finish
