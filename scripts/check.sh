#!/usr/bin/env bash
# The gate: format, lint, types, layers, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
ruff format --check .
ruff check .
mypy
lint-imports --no-logo
pytest -n 2 --dist worksteal "$@"  # heavy tests at the end are shared
