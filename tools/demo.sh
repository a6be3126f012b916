#!/bin/bash
# demo.sh unit|foreground|files yes|no : start vtpm0 (TPM 1.2) and vtpm1 (TPM 2.0), talk to both, stop them unless told
# to keep them
# Called by run-demo: `unit` starts vtpm@.service, `foreground` the daemon itself, both as root on a machine with
# /dev/cuse; `files` starts the daemon with the TPM as a file (FUSE), as anybody.
set -euo pipefail
way=$1 keep=$2
project=$(cd "$(dirname "$0")/.." && pwd)
daemons=() scratch=''
device() { if [ "$way" = files ]; then echo "$scratch/$1/fs/tpm"; else echo "/dev/$1"; fi; }

step() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
stop() {
  if [ "$way" = unit ]; then show systemctl stop vtpm@vtpm0 vtpm@vtpm1
  else
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || :; done
    for pid in "${daemons[@]}"; do wait "$pid"; done
    [ -z "$scratch" ] || rm -rf "$scratch"
  fi
}
start() { # NAME
  if [ "$way" = unit ]; then show systemctl start "vtpm@$1"
  elif [ "$way" = files ]; then
    mkdir -p "$scratch/$1/state"
    { sed -n '/^\[tpm\]/,/^$/p' "$project/etc/vtpm.d/$1.toml"
      printf '[device]\nenabled = false\nowner = "%s"\ngroup = "%s"\n' "$(id -u)" "$(id -g)"
      printf '[socket]\ncontrol = "%s"\n' "$scratch/$1/ctrl.sock"
      printf '[fuse]\nenabled = true\ndirectory = "%s"\n' "$scratch/$1/fs"
      printf '[state]\ndirectory = "%s"\n' "$scratch/$1/state"; } >"$scratch/$1.toml"
    echo "\$ vtpmd --config $scratch/$1.toml --foreground &"
    vtpmd --config "$scratch/$1.toml" --foreground --user "$(id -un)" & daemons+=($!)
    for _ in $(seq 300); do
      if [ -e "$scratch/$1/fs/tpm" ]; then return; fi
      kill -0 "${daemons[-1]}" 2>/dev/null || { echo "vtpmd $1 ended" >&2; return 1; }
      sleep 0.1
    done
    echo "$scratch/$1/fs was not mounted in 30 s" >&2; return 1
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
[ "$way" != files ] || scratch=$(mktemp -d /tmp/vtpm-run.XXXXXX)
start vtpm0; start vtpm1
show ls -l "$(device vtpm0)" "$(device vtpm1)"

step "TPM 1.2 at $(device vtpm0): TPM_GetCapability(TPM_CAP_VERSION_VAL)"
answer=$(ask "$(device vtpm0)" 00c100000012000000650000001a00000000)
echo "$answer"
# 12.2 of TPM Main Part 3: tag, size, return code, size of the answer, TPM_CAP_VERSION_INFO {tag 0030, version 01 02 ..}
case $answer in
  00c4????????00000000????????00300102*) echo "a TPM 1.2, as it says itself";;
  *) echo "not the answer of a TPM 1.2" >&2; exit 1;;
esac

step "TPM 2.0 at $(device vtpm1): tpm2-tools"
TPM2TOOLS_TCTI=device:$(device vtpm1); export TPM2TOOLS_TCTI
show tpm2_getrandom --hex 16; echo
show tpm2_pcrread sha256:0,7,16
show tpm2_createprimary -C o -G ecc -c "$(mktemp -u /tmp/primary.XXXXXX)"
echo
if [ "$way" = files ]; then
  show swtpm_ioctl --unix "$scratch/vtpm1/ctrl.sock" -c
  show head -c 65 "$scratch/vtpm1/fs/pcr-sha256/16"
else show swtpm_ioctl --tpm-device /dev/vtpm1 -c; fi

if [ "$keep" = yes ]; then
  trap - EXIT
  step "Both go on: $(device vtpm0) (TPM 1.2), $(device vtpm1) (TPM 2.0)"
  echo "try: tpm2_getrandom -T device:$(device vtpm1) --hex 16; vtpmctl status vtpm0"
  case $way in
    unit) echo "stop: systemctl stop vtpm@vtpm0 vtpm@vtpm1";;
    files) echo "stop: kill ${daemons[*]}; rm -r $scratch";;
    *) echo "stop: exit this shell";;
  esac
  exit 0
fi
step "Stop"
trap - EXIT
stop
if [ "$way" = files ]; then echo "both are gone, with their files and state"; exit 0; fi
for name in vtpm0 vtpm1; do
  # the kernel takes it away a moment after the stop
  for _ in $(seq 50); do [ -e "/dev/$name" ] || continue 2; sleep 0.1; done
  echo "/dev/$name is still there" >&2; exit 1
done
echo "both are gone, their state is in /var/lib/vtpm"
