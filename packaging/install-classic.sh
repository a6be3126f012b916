#!/bin/sh
# Installs what the old command names need beside their launchers. Called by `make install COMPAT=1` and by packages.
#
#   DESTDIR  a root to install into; empty: this system, which then gets the account and the directory of the CA
#   BINDIR   where the commands are (/usr/bin)
set -eu
umask 022

source=$(cd "$(dirname "$0")/.." && pwd)
DESTDIR=${DESTDIR:-}
BINDIR=${BINDIR:-/usr/bin}

put() { # FROM TO
    mkdir -p "$DESTDIR$(dirname "$2")"
    sed "s|/usr/bin/|$BINDIR/|" "$source/$1" >"$DESTDIR$2.new"
    chmod 644 "$DESTDIR$2.new"
    mv -f "$DESTDIR$2.new" "$DESTDIR$2"
}

for file in swtpm_setup.conf swtpm-localca.conf swtpm-localca.options; do
    # a file that is there is somebody's configuration
    [ -e "$DESTDIR/etc/$file" ] || put "packaging/classic/$file" "/etc/$file"
done
# who are of this installation: vtpm-ima signs them
put packaging/classic-commands.ini /usr/share/vtpm/classic-commands.ini
put packaging/sysusers/vtpm-classic.conf /usr/lib/sysusers.d/vtpm-classic.conf
put packaging/tmpfiles/vtpm-classic.conf /usr/lib/tmpfiles.d/vtpm-classic.conf

[ -z "$DESTDIR" ] || exit 0
systemd-sysusers vtpm-classic.conf
systemd-tmpfiles --create vtpm-classic.conf
