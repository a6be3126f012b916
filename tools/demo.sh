#!/bin/bash
# demo.sh unit|foreground yes|no : start vtpm0 (TPM 1.2) and vtpm1 (TPM 2.0), talk to both, stop them unless told to keep them
# Called by run-demo, as root on a machine with /dev/cuse: `unit` starts vtpm@.service, `foreground` the daemon itself.
set -euo pipefail
way=$1 keep=$2
project=$(cd "$(dirname "$0")/.." && pwd)
daemons=()

step() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
stop() {
  if [ "$way" = unit ]; then show systemctl stop vtpm@vtpm0 vtpm@vtpm1
  else
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || :; done
    for pid in "${daemons[@]}"; do wait "$pid"; done
  fi
}
start() { # NAME
  if [ "$way" = unit ]; then show systemctl start "vtpm@$1"
  else
    install -d -m 755 /etc/vtpm.d; [ -e "/etc/vtpm.d/$1.toml" ] || cp "$project/etc/vtpm.d/$1.toml" /etc/vtpm.d/
    install -d -m 700 -o vtpm -g vtpm "/var/lib/vtpm/$1" "/run/vtpm/$1"
    echo "\$ vtpmd $1 &"
    STATE_DIRECTORY=/var/lib/vtpm/$1 RUNTIME_DIRECTORY=/run/vtpm/$1 vtpmd "$1" & daemons+=($!)
    for _ in $(seq 100); do
      if [ "$(stat -c %a:%G "/dev/$1" 2>/dev/null)" = 660:vtpm ]; then return; fi
      kill -0 "${daemons[-1]}" 2>/dev/null || { echo "vtpmd $1 ended" >&2; return 1; }
      sleep 0.1
    done
    echo "/dev/$1 did not get its owner and mode in 10 s" >&2; return 1
  fi
}
ask() { # DEVICE HEX : one command as the driver of any program would send it, and the answer in hexadecimal
  local answer
  exec 7<>"$1"
  # shellcheck disable=SC2001
  printf '%b' "$(sed 's/../\\x&/g' <<<"$2")" >&7
  answer=$(dd bs=4096 count=1 status=none <&7 | od -An -v -tx1 | tr -d ' \n'); exec 7>&-
  echo "$answer"
}

step "Start"
trap 'stop || :' EXIT
start vtpm0; start vtpm1
show ls -l /dev/vtpm0 /dev/vtpm1

step "TPM 1.2 at /dev/vtpm0: TPM_GetCapability(TPM_CAP_VERSION_VAL)"
answer=$(ask /dev/vtpm0 00c100000012000000650000001a00000000)
echo "$answer"
# 12.2 of TPM Main Part 3: tag, size, return code, size of the answer, TPM_CAP_VERSION_INFO {tag 0030, version 01 02 ..}
case $answer in 00c4????????00000000????????00300102*) echo "a TPM 1.2, as it says itself";; *) echo "not the answer of a TPM 1.2" >&2; exit 1;; esac

step "TPM 2.0 at /dev/vtpm1: tpm2-tools"
export TPM2TOOLS_TCTI=device:/dev/vtpm1
show tpm2_getrandom --hex 16; echo
show tpm2_pcrread sha256:0,7,16
show tpm2_createprimary -C o -G ecc -c "$(mktemp -u /tmp/primary.XXXXXX)"
echo; show swtpm_ioctl --tpm-device /dev/vtpm1 -c

if [ "$keep" = yes ]; then
  trap - EXIT
  step "Both go on: /dev/vtpm0 (TPM 1.2), /dev/vtpm1 (TPM 2.0)"
  echo "try: tpm2_getrandom -T device:/dev/vtpm1 --hex 16; vtpmctl status vtpm0"
  if [ "$way" = unit ]; then echo "stop: systemctl stop vtpm@vtpm0 vtpm@vtpm1"; else echo "stop: exit this shell"; fi
  exit 0
fi
step "Stop"
trap - EXIT
stop
for name in vtpm0 vtpm1; do
  for _ in $(seq 50); do [ -e "/dev/$name" ] || continue 2; sleep 0.1; done   # the kernel takes it away a moment after the stop
  echo "/dev/$name is still there" >&2; exit 1
done
echo "both are gone, their state is in /var/lib/vtpm"
