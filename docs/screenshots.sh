#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Takes the documentation's pictures of GNU Radio Companion and of the running flowgraphs, on a screen of its own.
# Usage, after `source build/run_env.sh`: docs/screenshots.sh [FOLDER]    (default: docs)
# Needs xvfb, xauth, openbox, xdotool and imagemagick (`make screenshots` installs them).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
apps=$here/../apps
out=$(mkdir -p "${1:-$here}" && cd "${1:-$here}" && pwd)
for tool in Xvfb openbox xdotool import gnuradio-companion grcc; do
  command -v $tool >/dev/null || { echo "screenshots.sh: $tool is missing" >&2; exit 2; }
done

work=$(mktemp -d)
export HOME=$work XDG_CONFIG_HOME=$work/.config XDG_RUNTIME_DIR=$work/run NO_AT_BRIDGE=1 QT_SCALE_FACTOR=1
mkdir -p "$HOME/.gnuradio" "$XDG_RUNTIME_DIR" "$work/generated"
chmod 700 "$XDG_RUNTIME_DIR"
jobs=()
finish() {
  for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# The canvas alone: no console, no block tree.
export GRC_PREFS_PATH=$work/grc.conf
cat > "$GRC_PREFS_PATH" <<'CONF'
[main]
main_window_width = 1640
main_window_height = 1260
console_window_visible = False
blocks_window_visible = False
variable_editor_visable = False
show_block_comments = True
CONF

Xvfb -displayfd 3 -screen 0 1640x1260x24 -nolisten tcp 3>"$work/display" 2>/dev/null & jobs+=($!)
until [ -s "$work/display" ]; do sleep 0.1; done
export DISPLAY=:$(cat "$work/display")
openbox >/dev/null 2>&1 & jobs+=($!)

window() { # title; fails where none appears within a minute
  timeout 60 xdotool search --onlyvisible --sync --name "$1" | tail -1
}
picture() { # window, file
  import -window "$1" -colors 200 "PNG8:$out/$2"
  echo "$out/$2: $(stat -c %s "$out/$2") bytes"
}

canvas() { # name of the flowgraph
  gnuradio-companion "$apps/$1.grc" >"$work/$1.log" 2>&1 & local job=$!; jobs+=($job)
  local id; id=$(window "$1")
  xdotool windowmove "$id" 0 0 windowsize "$id" 1640 1260
  sleep 6 # the blocks are drawn when their ports and texts are known
  picture "$id" "grc_$1.png"
  if [ "$1" = simulated_mixture ]; then
    # The canvas begins below menu and tool bar: 66 pixels. This is inside the separator's block.
    read -r x y < <(awk '/^- name: separator$/ {found = 1} found && /coordinate:/ {gsub(/[][,]/, ""); print $2, $3; exit}' \
      "$apps/$1.grc")
    xdotool mousemove --window "$id" $((x + 60)) $((y + 112)) click --repeat 2 --delay 120 1
    local dialog; dialog=$(window "Properties: Separator")
    xdotool windowmove "$dialog" 400 300 windowsize "$dialog" 640 480
    sleep 1
    import -window root -crop 642x506+400+300 +repage -colors 200 "PNG8:$out/grc_separator_dialog.png"
    echo "$out/grc_separator_dialog.png: $(stat -c %s "$out/grc_separator_dialog.png") bytes"
    xdotool key Escape
  fi
  kill $job; wait $job 2>/dev/null || true
}

running() { # name of the flowgraph
  grcc -o "$work/generated" "$apps/$1.grc" >"$work/$1.log" 2>&1
  (cd "$apps" && exec python -u "$work/generated/$1.py") >"$work/$1.log" 2>&1 & local job=$!; jobs+=($job)
  local id; id=$(window "Two overlapping signals")
  xdotool windowmove "$id" 0 0 windowsize "$id" 1400 880
  sleep 14 # bits are counted over 10,000
  picture "$id" "run_$1.png"
  if [ "$1" = simulated_mixture ]; then
    xdotool mousemove --window "$id" 194 74 click 1 # the tab Spectra
    sleep 4
    picture "$id" "run_$1_spectra.png"
  fi
  kill -TERM $job; wait $job 2>/dev/null || true
}

for name in simulated_mixture sdr_file_source; do
  canvas $name
  running $name
done
