#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# usage: cmake/install.sh PREFIX BUILD PYTHON
# Installs gr-unmix from the folder BUILD, configured with PYTHON (which has pip). PREFIX is one of
# - a virtual environment: its Python runs what is installed, and pip installs requirements.txt there;
# - /usr/local or another folder: Debian's python3 runs it. The packages that Debian does not have (torch, sigmf, ...) go
#   to PREFIX/lib/gr-unmix/site-packages, and gr-unmix.pth puts that folder behind Debian's own packages.
# Only what writes to PREFIX is done as root, and only where PREFIX is not ours to write.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
prefix=$(realpath --canonicalize-missing "$1")
build=$(realpath "$2")
build_python=$3
give_up() { echo "gr-unmix is not installed: $1" >&2; exit 1; }
facts='import importlib.metadata as m, sys; print("%d.%d" % sys.version_info[:2], m.version("torch"))'
site_folders='import site; print(*site.getsitepackages(), sep="\n")'
torch_lib='import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin) + "/lib")'
pip() { "$build_python" -m pip --disable-pip-version-check --python "$1" install --quiet --requirement "$source/requirements.txt"; }

[ "$prefix" != /usr ] || give_up "/usr is for Debian's packages; the prefix for others is /usr/local"
as_root=""
existing=$prefix
while [ ! -d "$existing" ]; do existing=$(dirname "$existing"); done
[ -w "$existing" ] || as_root="sudo"
unset PYTHONPATH PYTHONHOME

# The Python that runs it, and what that lacks
own=$prefix/lib/gr-unmix/site-packages
version=$("$build_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ -f "$prefix/pyvenv.cfg" ]; then
    python=$prefix/bin/python packages=lib/python$version/site-packages grc_tools=ON stage=""
    pip "$python"
    checked=$python
else
    python=/usr/bin/python3 packages=lib/python$version/dist-packages grc_tools=OFF
    # Debian's own scipy and matplotlib go with its numpy, which is the one that GNU Radio was built for.
    "$source/cmake/install_packages.sh" python3-scipy python3-matplotlib
    # An environment that sees Debian's packages, but not what an earlier gr-unmix.pth has put beside them.
    checked=$build/install_packages/bin/python
    stage=$build/install_packages/lib/python$version/site-packages
    [ -x "$checked" ] || "$python" -m venv --without-pip "$build/install_packages"
    "$python" -c "$site_folders" > "$stage/debian.pth"
    echo "Collecting the Python packages that Debian does not have"
    pip "$checked"
fi
[ "$("$checked" -c "$facts")" = "$("$build_python" -c "$facts")" ] ||
    give_up "$python would have Python and torch $("$checked" -c "$facts"), the build has $("$build_python" -c "$facts")"
torch=$("$checked" -c "$torch_lib")
case $torch in "$stage"/*) [ -z "$stage" ] || torch=$own${torch#"$stage"} ;; esac

log=$build/install.log
{ cmake -S "$source" -B "$build" -DCMAKE_INSTALL_PREFIX="$prefix" -DUNMIX_PYTHON_DIR="$packages/gnuradio/unmix" \
    -DUNMIX_RUN_PYTHON="$python" -DUNMIX_TORCH_RPATH="$torch" -DUNMIX_GRC_TOOLS=$grc_tools &&
    cmake --build "$build" --parallel "$(nproc)"; } > "$log" 2>&1 || { tail -20 "$log" >&2; give_up "see $log"; }

# From here on as root, where needed
[ ! -f "$prefix/lib/gr-unmix/manifest.txt" ] || "$source/cmake/uninstall.sh" "$prefix"
rm -f "$build/install_manifest.txt"
$as_root cmake --install "$build" >> "$log"
rm -f "$build/install_manifest.txt" # root's, and CMake writes another one next time; ours is in PREFIX
if [ -n "$stage" ]; then
    $as_root cp -r --preserve=timestamps "$stage" "$own"
    $as_root rm -f "$own/debian.pth"
    "$python" -c "$site_folders" | grep -v "^$prefix/" | $as_root tee "$prefix/$packages/gr-unmix.pth" > /dev/null
    echo "$own" | $as_root tee -a "$prefix/$packages/gr-unmix.pth" > /dev/null
    echo "$packages/gr-unmix.pth" | $as_root tee -a "$prefix/lib/gr-unmix/manifest.txt" > /dev/null
fi
$as_root "$python" -m compileall -q "$prefix/$packages/gnuradio/unmix"
[ "$prefix" != /usr/local ] || $as_root /sbin/ldconfig

# Does it work with no variable set?
cd /
if [ -n "$stage" ] && ! "$python" -c "$site_folders" | grep -qx "$prefix/$packages"; then
    echo "Neither Python nor GNU Radio looks in $prefix by itself; set"
    echo "  export PYTHONPATH=$prefix/$packages:$own GRC_BLOCKS_PATH=$prefix/share/gnuradio/grc/blocks"
    export PYTHONPATH="$prefix/$packages:$own"
fi
where=$("$python" -c 'from gnuradio import unmix; print(unmix.__file__)') || give_up "'from gnuradio import unmix' fails; see above"
[ "$where" = "$prefix/$packages/gnuradio/unmix/__init__.py" ] || give_up "$python finds another one first: $where"
echo "Installed gr-unmix in $prefix for $python. To remove it: make uninstall PREFIX=$prefix"
