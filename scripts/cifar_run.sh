#!/usr/bin/env bash
# Starts the long CIFAR-10 run in the background, or goes on with it, and says where it stands:
#   scripts/cifar_run.sh FOLDER TRAIN.zip TEST.zip
# It runs on one thread at low priority, in a clone of its own at the commit of the day it was first started (FOLDER/code, with its
# own environment), so that work on the code cannot break it. To pause it: kill -STOP "$(cat FOLDER/pid)"; to go on: kill -CONT.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,5s/^# \?//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd) out=$(mkdir -p "$1" && cd "$1" && pwd) train=$(realpath -e "$2") test=$(realpath -e "$3")
if [ ! -d "$out/code" ]; then
  git clone -q "$here" "$out/code"
fi
make -s -C "$out/code" setup
run() { cd "$out/code" && OMP_NUM_THREADS=1 "$@" .venv/bin/python -u scripts/cifar_run.py "$what" --out "$out" --data "$train" --test "$test"; }
if ! { [ -f "$out/pid" ] && kill -0 "$(cat "$out/pid")" 2>/dev/null; }; then
  what=go
  run setsid nohup nice -n 10 >>"$out/log" 2>&1 </dev/null &
  sleep 2
fi
what=status run env
