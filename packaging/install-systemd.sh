#!/bin/sh
# Installs what systemd, udev and the journal need beside the Python package. Called by `make install` and by packages.
#
#   DESTDIR          a root to install into; empty: this system, whose services are then told about it
#   LIBEXECDIR       where the launchers go (/usr/libexec/vtpm); below /usr, the unit lets nothing else be executed
#   PYTHON           the interpreter that has swtpm_svc (/usr/bin/python3)
#   SYSTEMD_VERSION  of the system that will run it; asked of systemctl when empty
set -eu
umask 022

source=$(cd "$(dirname "$0")/.." && pwd)
DESTDIR=${DESTDIR:-}
LIBEXECDIR=${LIBEXECDIR:-/usr/libexec/vtpm}
PYTHON=${PYTHON:-/usr/bin/python3}
SYSTEMD_VERSION=${SYSTEMD_VERSION:-$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')}
UNITS=/usr/lib/systemd/system

fail() {
    echo "install-systemd.sh: $1" >&2
    echo "  remedy: $2" >&2
    exit 64
}

case $LIBEXECDIR in
/usr/*) ;;
*) fail "LIBEXECDIR is $LIBEXECDIR, expected a directory below /usr" "leave it out, or name one below /usr/local" ;;
esac
case $SYSTEMD_VERSION in
'' | *[!0-9]*) fail "SYSTEMD_VERSION is '$SYSTEMD_VERSION', expected a number" \
    "give the version of the system that will run it: SYSTEMD_VERSION=252" ;;
esac

# put MODE FROM TO: with the two paths that may differ from those in the source.
put() {
    mkdir -p "$DESTDIR$(dirname "$3")"
    sed -e "1s|^#!/usr/bin/python3 |#!$PYTHON |" -e "s| /usr/bin/python3 -IB -m| $PYTHON -IB -m|" \
        -e "s|/usr/libexec/vtpm/|$LIBEXECDIR/|g" "$source/$2" >"$DESTDIR$3.new"
    chmod "$1" "$DESTDIR$3.new"
    mv -f "$DESTDIR$3.new" "$DESTDIR$3"
}

put 755 packaging/libexec/vtpmd "$LIBEXECDIR/vtpmd"
put 755 packaging/libexec/vtpm-udev-properties "$LIBEXECDIR/vtpm-udev-properties"
put 755 packaging/libexec/vtpm-attach "$LIBEXECDIR/vtpm-attach"
put 755 packaging/libexec/vtpm-ima "$LIBEXECDIR/vtpm-ima"
put 755 packaging/libexec/vtpm-end-sockets "$LIBEXECDIR/vtpm-end-sockets"
put 644 packaging/vtpm@.service "$UNITS/vtpm@.service"
put 644 packaging/vtpm@.socket "$UNITS/vtpm@.socket"
put 644 packaging/vtpm-failed@.service "$UNITS/vtpm-failed@.service"
put 644 packaging/vtpm.target "$UNITS/vtpm.target"
put 644 packaging/system-vtpm.slice "$UNITS/system-vtpm.slice"
put 644 packaging/udev/70-vtpm.rules /usr/lib/udev/rules.d/70-vtpm.rules
put 644 packaging/sysusers/vtpm.conf /usr/lib/sysusers.d/vtpm.conf
put 644 packaging/tmpfiles/vtpm.conf /usr/lib/tmpfiles.d/vtpm.conf
put 644 packaging/catalog/vtpm.catalog /usr/lib/systemd/catalog/vtpm.catalog
if [ "$SYSTEMD_VERSION" -ge 253 ]; then
    put 644 "packaging/vtpm@.service.d/openfile.conf" "$UNITS/vtpm@.service.d/openfile.conf"
else
    rm -f "$DESTDIR$UNITS/vtpm@.service.d/openfile.conf"
fi
for example in vtpm0 vtpm1; do
    # a file that is there is somebody's configuration
    [ -e "$DESTDIR/etc/vtpm.d/$example.toml" ] || put 644 "etc/vtpm.d/$example.toml" "/etc/vtpm.d/$example.toml"
done

[ -z "$DESTDIR" ] || exit 0
# The group must exist before udev reads the rule that names it.
systemd-sysusers vtpm.conf
systemd-tmpfiles --create vtpm.conf
journalctl --update-catalog
if [ -d /run/systemd/system ]; then
    udevadm control --reload
    systemctl daemon-reload
fi
