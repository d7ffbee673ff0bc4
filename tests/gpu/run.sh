#!/usr/bin/env bash
# Check and time ramnas on one NVIDIA GPU, or on a CPU if there is none. docs/gpu.md explains the table.
set -euo pipefail

usage() {
  cat <<'TEXT'
tests/gpu/run.sh [--wheels DIR] [--budget SECONDS] [--only SECTION ...] [--quick]
    Checks and times, in at most 480 seconds (--budget), and prints one table. The table and the
    logs are also written to the folder $OUT, if OUT is set. Python is python3, or $PYTHON; it must
    have PyTorch.
    --wheels DIR   take everything else from the wheels in DIR; nothing is installed for good
    --only         the sections to run, as the first column of the table names them
    --quick        tiny sizes, to test this script itself

tests/gpu/run.sh --fetch DIR [--for 3.12]
    On a machine with a network: downloads these wheels to DIR (about 450 MB), for that version of
    Python (default: that of python3) on x86-64 Linux.
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name=${PYTHON:-python3}
path=$(command -v "$name") || { echo "there is no $name: name a Python that has PyTorch: PYTHON=/path/to/python3 $0" >&2; exit 2; }
python=$(realpath -s "$path") # -s: in a venv it is a link
wheels='' fetch='' version='' budget=480
others=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2; shift 2 ;;
    --fetch) fetch=$2; shift 2 ;;
    --for) version=$2; shift 2 ;;
    --budget) budget=$2; shift 2 ;;
    -h | --help) usage; exit ;;
    *) others+=("$1"); shift ;;
  esac
done

if [ -n "$fetch" ]; then
  version=${version:-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
  platforms=()
  # pip compares these names letter by letter, so each older system that a wheel may name is listed
  for name in manylinux1 manylinux2010 manylinux2014 manylinux_2_{5,12,17,24,26,27,28}; do
    platforms+=(--platform "${name}_x86_64")
  done
  exec "$python" -m pip download --no-deps --only-binary=:all: --python-version "$version" \
    --implementation cp "${platforms[@]}" --dest "$fetch" -r "$root/tests/gpu/wheels.txt"
fi

if ! "$python" -c 'import torch'; then
  echo "$python has no PyTorch: install it, or name another Python: PYTHON=/path/to/python3 $0" >&2
  exit 2
fi
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || { echo "--wheels $wheels: there is no such folder" >&2; exit 2; }
  wheels=$(cd "$wheels" && pwd)
  # by name and not by file, so that the folder may hold wheels for several versions of Python
  names=$(find "$wheels" -name '*.whl' -printf '%f\n' | sed 's/-.*//' | sort -u)
  [ -n "$names" ] || { echo "$wheels has no wheels: $0 --fetch $wheels downloads them" >&2; exit 2; }
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
    --no-deps --no-compile --target "$site" $names
fi
cd "$root"
export PYTHONPATH="$site:$root:$root/models:$root/edge:$root/host:$root/ros2_pkg${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m tests.gpu --budget $((budget - SECONDS)) "${others[@]}"
