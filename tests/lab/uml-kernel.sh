# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by uml.sh and vm.sh: a User-Mode Linux kernel that boots on this machine, and where the machine's memory goes
#
# Not every kernel does: those of Debian 12 and 13 size the floating-point registers when they are compiled, and die at
# their first process on processors with larger ones (AMX). sid's asks the host. It is unpacked into the lab's cache,
# with its own libc and modules, and patched to use that libc; apt checks the signatures, and nothing is installed.
# Variables: LAB_UML (the installed kernel, default linux.uml), LAB_CACHE, LAB_PROBE_LIMIT (seconds that a kernel has
# for its first process, default 30)
uml_lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_CACHE=${LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}/.cache}/vtpm-lab}
uml_cache=$LAB_CACHE/uml
# shellcheck source=tests/lab/apt.sh
. "$uml_lab/apt.sh"

# uml_kernel any|newest : sets UML_KERNEL, UML_MODULES (the folder of its modules) and UML_OPTIONS (an array). `any`: to
# the archive's kernel if it is in the cache and boots, since it is the fastest, else to the installed one if it boots;
# else, and for `newest`, the archive's is unpacked.
# Where none boots: one line that says why, and 1.
uml_kernel() {
  local installed='not asked for' archive=''
  local archives=$uml_cache/sid/linux.uml
  if [ "$1" = any ] && ! { [ -x "$archives" ] && [ -z "$(uml_probe "$archives")" ]; }; then
    if UML_KERNEL=$(command -v "${LAB_UML:-linux.uml}"); then
      installed=$(uml_probe "$UML_KERNEL")
      if [ -z "$installed" ]; then uml_describe /usr/lib/uml/modules; return; fi
      echo "uml-kernel.sh: $installed; trying the archive's newest" >&2
    else installed="there is no ${LAB_UML:-linux.uml}"; fi
  fi
  UML_KERNEL=$uml_cache/sid/linux.uml
  if archive=$(uml_fetch 2>&1) && archive=$(uml_probe "$UML_KERNEL") && [ -z "$archive" ]; then
    uml_describe "$uml_cache/sid/modules"; return
  fi
  echo "uml-kernel.sh: no User-Mode Linux boots here. Installed: $installed. Of the archive: $archive" >&2
  return 1
}

uml_describe() { # MODULES : of all versions
  UML_MODULES=$1/$("$UML_KERNEL" --version </dev/null) UML_OPTIONS=()
  # what runs there is trusted: the faster way of catching its system calls will do
  ! "$UML_KERNEL" --help </dev/null 2>/dev/null | grep -q '^seccomp=' || UML_OPTIONS=(seccomp=on)
}

# uml_probe KERNEL : prints nothing if it reaches its first process here, else why not. The answer is kept, but not that
# time ran out.
uml_probe() {
  local identity known scratch answer='' rc=0 limit=${LAB_PROBE_LIMIT:-30}
  identity=$({ cat "$1"; uname -rm; grep -m 2 -E '^(model name|flags|CPU part|Features)' /proc/cpuinfo; } |
    sha256sum | cut -c 1-32)
  known=$uml_cache/probed/$identity
  if [ -f "$known" ]; then cat "$known"; return; fi
  scratch=$(mktemp -d /tmp/vtpm-uml.XXXXXX); cp "$uml_lab/uml-init.sh" "$scratch/init"
  TMPDIR=$(uml_memory 64) timeout -k 2 "$limit" "$1" mem=64M "umid=probe$$" "uml_dir=$scratch" \
    root=/dev/root rootfstype=hostfs rootflags=/ ro quiet loglevel=3 "init=$scratch/init" lab_probe=1 \
    "lab_scratch=$scratch" con=null con0=null,fd:1 ssl=null </dev/null >"$scratch/log" 2>&1 || rc=$?
  if [ ! -e "$scratch/first-process" ]; then
    case $rc in
      124 | 137) answer="$1 did not reach its first process in $limit s";;
      *) answer="$1 ended with $rc before its first process"
         answer+=$(grep -om 1 -E 'fatal_sigsegv|put_fp_registers|Kernel panic' "$scratch/log" | sed 's/.*/ (&)/' || :);;
    esac
  fi
  rm -rf "$scratch"
  if [ -z "$answer" ] || { [ $rc != 124 ] && [ $rc != 137 ]; }; then
    mkdir -p "${known%/*}"; printf '%s' "$answer" >"$known.$$"; mv "$known.$$" "$known"
  fi
  printf '%s' "$answer"
}

# uml_fetch : sees to $uml_cache/sid/{linux.uml,lib,modules}. Returns 1, with a line that says why, where it cannot be
# had.
uml_fetch() {
  local tool new=$uml_cache/.sid.new
  [ ! -x "$uml_cache/sid/linux.uml" ] || return 0
  [ "$(uname -m)" = x86_64 ] || { echo "none for $(uname -m)"; return 1; }
  for tool in mmdebstrap patchelf; do
    command -v $tool >/dev/null || { echo "it cannot be unpacked, no $tool here"; return 1; }
  done
  mkdir -p "$uml_cache"
  (
    exec 9>"$uml_cache/.lock"; flock 9; umask 022
    [ ! -x "$uml_cache/sid/linux.uml" ] || exit 0
    lines=$(apt_lines sid) || { echo "$lines"; exit 1; }
    rm -rf "$new"; mkdir -p "$new/sid/lib"
    mmdebstrap --variant=extract --include=user-mode-linux,libc6 --aptopt='Acquire::Check-Valid-Until "false"' \
      sid "$new/root" "$lines" \
      </dev/null >"$uml_cache/fetch.log" 2>&1 || { echo "it cannot be unpacked, see $uml_cache/fetch.log"; exit 1; }
    cp "$new"/root/usr/lib/x86_64-linux-gnu/{ld-linux-x86-64.so.2,libc.so.6} "$new/sid/lib/"
    mv "$new/root/usr/bin/linux.uml" "$new/root/usr/lib/uml/modules" "$new/sid/"
    patchelf --set-interpreter "$uml_cache/sid/lib/ld-linux-x86-64.so.2" --set-rpath "$uml_cache/sid/lib" \
      "$new/sid/linux.uml" || exit 1
    rm -rf "$uml_cache/sid"; mv "$new/sid" "$uml_cache/sid"; rm -rf "$new"
  )
}

# uml_memory MIB : the folder for the machine's memory, which is a file: a tmpfs that has room for it and lets code be
# run from it, else the disk
uml_memory() {
  local folder room
  for folder in ${TMPDIR:+"$TMPDIR"} /dev/shm; do
    room=$(df -Pm "$folder" 2>/dev/null | awk 'NR==2 {print $4}')
    if [ "${room:-0}" -gt "$1" ] && ! findmnt -no OPTIONS -T "$folder" | grep -qw noexec; then
      echo "$folder"; return
    fi
  done
  echo /tmp
}
