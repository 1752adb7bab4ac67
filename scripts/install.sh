#!/usr/bin/env bash
# Make .venv and install ftune and further pip arguments into it: `install.sh [--group dev]`. What is there is reused.
# PYTHON names the interpreter (3.11 or newer); TORCH_INDEX_URL an index with a smaller PyTorch for machines without GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "ftune needs Python 3.11 or newer; '$python' is not. Set PYTHON=/path/to/python3.11" >&2
  exit 2
fi

stamp=.venv/.installed
wanted=$(cat pyproject.toml scripts/constraints.txt scripts/install.sh - <<<"$*" | cksum)
if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
  exit 0
fi

echo "installing into .venv (a few minutes, once)" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --upgrade 'pip>=25.1' # the first that knows dependency groups
torch=()
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1 && [ -n "${TORCH_INDEX_URL:-}" ]; then
  torch=(--index-url "$TORCH_INDEX_URL")
fi
# a file is compiled when it is first imported, and most of them never are: a third of the time
$pip install --no-compile "${torch[@]}" --constraint scripts/constraints.txt torch
$pip install --no-compile --constraint scripts/constraints.txt --editable . "$@"
echo "$wanted" >>"$stamp"
