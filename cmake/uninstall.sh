#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# usage: cmake/uninstall.sh PREFIX
# Removes what was installed there: the files of its manifest, its own packages, and folders that this leaves empty.
set -eu
prefix=${1%/}
own=$prefix/lib/gr-unmix
if [ ! -f "$own/manifest.txt" ]; then
    echo "Nothing to remove: no gr-unmix in $prefix (there is no $own/manifest.txt)"
    exit 0
fi
if [ ! -w "$own" ] && [ "$(id -u)" != 0 ]; then
    exec sudo "$0" "$@"
fi

files=$(grep -c -v '/$' "$own/manifest.txt")
list=$(sort -r "$own/manifest.txt") # what is in a folder comes before it
packages=""
[ ! -d "$own/site-packages" ] || packages=", and the Python packages that came with it"
rm -rf "$own/site-packages"
printf '%s\n' "$list" | while IFS= read -r path; do
    case $path in
    */gnuradio/unmix/*/ | */gnuradio/unmix/) rm -rf "$prefix/${path}__pycache__" ;;
    */) ;;
    *) rm -f "$prefix/$path" ;;
    esac
done
printf '%s\n' "$list" | grep '/$' | while IFS= read -r path; do
    [ ! -d "$prefix/$path" ] || rmdir "$prefix/$path" 2>/dev/null || echo "Kept $prefix/$path: it holds files of others"
done
[ "$prefix" != /usr/local ] || /sbin/ldconfig
echo "Removed gr-unmix from $prefix ($files files$packages)"
