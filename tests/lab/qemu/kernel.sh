#!/bin/bash
# kernel.sh : prints the path of a Linux kernel for the guests of the QEMU lab
#
# Debian's own (linux-image-amd64, whose TPM drivers are built in), fetched by apt and kept in
# ${XDG_CACHE_HOME:-~/.cache}/vtpm-lab/qemu (LAB_CACHE) until apt offers another version. LAB_KERNEL names a kernel to
# use instead; it needs the TPM's and the serial line's drivers built in. Needs no root.
set -euo pipefail
[ -z "${LAB_KERNEL:-}" ] || { echo "$LAB_KERNEL"; exit; }
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vtpm-lab}/qemu
fail() { printf 'kernel.sh: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 69; }
command -v apt-get >/dev/null ||
  fail 'no apt, which knows Debian'\''s kernels' 'set LAB_KERNEL to a kernel with built-in TPM drivers'

package() {
  apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' || :
}
candidate() { apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9   # two runs at once fetch it once
name=$(package)
[ -n "$name" ] || { apt-get -q update >&2 || :; name=$(package); }
[ -n "$name" ] || fail 'apt knows no linux-image-amd64' 'set LAB_KERNEL to a kernel with built-in TPM drivers'
if [ "$name $(candidate "$name")" != "$(cat "$cache/version" 2>/dev/null)" ]; then
  fetched=$(mktemp -d "$cache/fetch.XXXXXX"); trap 'rm -rf "$fetched"' EXIT
  download() { (cd "$fetched" && apt-get -q -o APT::Sandbox::User=root download "$name") >&2; }
  # the package lists may be older than the archive
  download || { apt-get -q update >&2 && download; } ||
    fail "apt-get could not fetch $name" 'see above, then run it again'
  dpkg-deb --fsys-tarfile "$fetched"/*.deb | tar -x -O --wildcards './boot/vmlinuz-*' >"$fetched/vmlinuz"
  mv "$fetched/vmlinuz" "$cache/vmlinuz"
  echo "$name $(candidate "$name")" >"$cache/version"
fi
echo "$cache/vmlinuz"
