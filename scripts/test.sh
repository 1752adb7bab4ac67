#!/usr/bin/env bash
# Install what the tests need and run the gate. Arguments go to pytest: `scripts/test.sh -m slow`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh --group dev
exec bash scripts/check.sh "$@"
