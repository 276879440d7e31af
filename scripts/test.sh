#!/usr/bin/env bash
# Run linters, type checker and tests, for people and CI: bash scripts/test.sh [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
install cpu dev
fetch_background_model u2netp
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$ROOT/.venv/bin/lint-imports"
"$PYTHON" -m mypy
# Test modules are distributed over two processes, slow ones first (tests/conftest.py); `pytest` alone runs them one after
# the other.
exec "$PYTHON" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
