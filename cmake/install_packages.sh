#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs what gr-unmix needs from Debian 12, and nothing when it is all there. Arguments: further packages.
set -eu
packages="cmake g++ make python3 python3-dev python3-venv pybind11-dev gnuradio"
packages="$packages gnuradio-dev"     # headers: the blocks ask GNU Radio what its Python bindings do not tell
packages="$packages gir1.2-gtk-3.0"   # GNU Radio Companion's window: gnuradio brings python3-gi and leaves this out
packages="$packages python3-pyqt5"    # QT displays of the flowgraphs (gnuradio brings it; named because they need it)
packages="$packages $*"

missing=""
for package in $packages; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "Installing from Debian:$missing"
as_root=""
if [ "$(id -u)" != 0 ]; then
    as_root="sudo"
    command -v sudo >/dev/null || { echo "sudo is missing: run as root: apt-get install$missing" >&2; exit 1; }
fi
$as_root apt-get update -qq
# Without recommended packages: GNU Radio's would bring several hundred MB that are not used here.
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
