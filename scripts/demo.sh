#!/usr/bin/env bash
# See it work on any machine, without GPU or weights: bash scripts/demo.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
install cpu
fetch_background_model u2netp
exec "$PYTHON" "$ROOT/scripts/run_demo.py" "$@"
