#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of a guest. Its second serial line takes orders, a line each: "reboot", "poweroff", or a TPM command as a
# format for printf (\x80\x01...), which goes to /dev/tpm0 in one write; the response comes back as a line of
# hexadecimal digits.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t sysfs sys /sys
$bb stty -F /dev/ttyS1 raw -echo
exec <>/dev/ttyS1 >&0
[ -c /dev/tpm0 ] || { echo 'no /dev/tpm0'; exec $bb sleep 1000000; }
exec 3<>/dev/tpm0
echo "ready tpm $($bb cat /sys/class/tpm/tpm0/tpm_version_major)"
while read -r order; do
  # shellcheck disable=SC2059
  case $order in
    reboot | poweroff) $bb "$order" -f;;
    *) printf "$order" >&3; $bb xxd -p <&3 | $bb tr -d '\n'; echo;;
  esac
done
