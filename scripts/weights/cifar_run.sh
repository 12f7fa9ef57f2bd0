#!/usr/bin/env bash
# Starts the long CIFAR-10 run in the background, or goes on with it, and says where it stands:
#   scripts/weights/cifar_run.sh FOLDER TRAIN.zip TEST.zip [--only MODEL ...]
# It runs on one thread at low priority, in a clone of its own at the commit of the day it was first started (FOLDER/code, with its
# own environment), so that work on the code cannot break it. To pause it: kill -STOP "$(cat FOLDER/pid)"; to go on: kill -CONT.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,5s/^# \?//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")/../.." && pwd) out=$(mkdir -p "$1" && cd "$1" && pwd) train=$(realpath -e "$2") test=$(realpath -e "$3")
shift 3
if [ ! -d "$out/code" ]; then
  rm -rf "$out/code.tmp"
  git clone -q "$here" "$out/code.tmp"
  mv "$out/code.tmp" "$out/code"
fi
make -s -C "$out/code" setup
cd "$out/code"
script=scripts/weights/cifar_run.py
[ -f $script ] || script=scripts/cifar_run.py  # a clone of earlier days
if flock -n -E 9 "$out/lock" true; then
  OMP_NUM_THREADS=1 setsid nohup nice -n 10 .venv/bin/python -u $script go --out "$out" --data "$train" --test "$test" "$@" \
    >>"$out/log" 2>&1 </dev/null &
  child=$!
  while kill -0 $child 2>/dev/null && flock -n -E 9 "$out/lock" true; do sleep 1; done
  kill -0 $child 2>/dev/null || { tail -n 3 "$out/log"; exit 1; }
fi
.venv/bin/python $script status --out "$out"
