#!/usr/bin/env bash
# The gate: format, lint, types, layers, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
unset PYTHONDONTWRITEBYTECODE # the libraries are compiled once, not in each of hundreds of processes
pytest --collect-only "$@" >/dev/null & compiled=$! # of a fresh environment, once and not in each worker: 30 s
ruff format --check .
ruff check .
lint-imports --no-logo
mypy & types=$! # beside the first tests, which wait for imports and processes
wait "$compiled" || true # what cannot be collected is told by the tests
# one worker more than cores: tests that wait for processes leave a core idle; heavy ones at the end are shared
pytest -n "$(($(nproc) + 1))" --dist worksteal "$@" || failed=$?
wait "$types"
exit "${failed:-0}"
