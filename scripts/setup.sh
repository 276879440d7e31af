#!/usr/bin/env bash
# Install for real operation: bash scripts/setup.sh [--gpu]
#   --gpu  on CUDA (torch's build for it, and onnxruntime-gpu instead of onnxruntime)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

runtime=cpu
for argument in "$@"; do
    case "$argument" in
    --gpu) runtime=gpu ;;
    *) fail "unknown option $argument; usage: bash scripts/setup.sh [--gpu]" ;;
    esac
done
if [ "$runtime" = gpu ] && [ -x "$PYTHON" ]; then
    "$PYTHON" -m pip uninstall --quiet --yes onnxruntime
    # It has the version that gpu.txt asks for.
    if "$PYTHON" -m pip show torch 2>/dev/null | grep -q "^Version: .*+cpu"; then
        "$PYTHON" -m pip uninstall --quiet --yes torch
    fi
fi
install "$runtime"
fetch_background_model u2net
"$PYTHON" - <<'END'
import torch

print(f"torch {torch.__version__}, CUDA devices: {torch.cuda.device_count()}")
END
echo "Installed into .venv. Next: README.md, 'From a bare GPU machine to pm2'."
