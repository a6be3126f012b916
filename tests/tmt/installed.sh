#!/bin/bash
# The installed package, used as its README says: as root on a machine with systemd, vtpm1 not configured otherwise. tmt
# runs it on Fedora (plans/package.fmf), tests/lab/rpm in the QEMU lab.
set -euo pipefail
member=vtpm-tmt   # for as long as this runs
getrandom() { runuser -u "$1" -- tpm2_getrandom -T device:/dev/vtpm1 --hex 8; }
# shellcheck disable=SC2317
clean_up() { systemctl stop vtpm@vtpm1.service; userdel "$member"; }
useradd --no-create-home --home-dir /tmp --groups vtpm "$member"; trap clean_up EXIT

set -x
rpm -V python3-swtpm
test "$(systemctl is-enabled vtpm@.service)" = disabled
systemctl start vtpm@vtpm1.service
getrandom "$member"
! getrandom nobody || exit 1

exec 8<>/dev/vtpm1
systemctl restart vtpm@vtpm1.service
printf '\x80\x01\0\0\0\x0c\0\0\x01\x7b\0\x08' >&8
# TPM_RC_SUCCESS and 8 random bytes, from a daemon that is not the one which this was opened at
test "$(head -c 20 <&8 | od -An -tx1 -N12 | tr -d ' \n')" = 800100000014000000000008
exec 8>&-
! ausearch --input-logs -m avc,user_avc -ts boot -su vtpm_t || exit 1
