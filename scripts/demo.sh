#!/usr/bin/env bash
# See it work on any machine, without GPU or weights: bash scripts/demo.sh [--output FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
install cpu demo
fetch_background_model u2netp
PYTHONPATH="$ROOT" exec "$PYTHON" -m scripts.demo "$@"
