#!/usr/bin/env bash
# Install for real operation: bash scripts/setup.sh [--gpu] [--text]
#   --gpu   background removal on CUDA (onnxruntime-gpu instead of onnxruntime)
#   --text  diffusers, for phases that turn sentences into pictures
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

runtime=cpu
extras=()
for argument in "$@"; do
    case "$argument" in
    --gpu) runtime=gpu ;;
    --text) extras+=(text) ;;
    *) fail "unknown option $argument; usage: bash scripts/setup.sh [--gpu] [--text]" ;;
    esac
done
if [ "$runtime" = gpu ] && [ -x "$PYTHON" ]; then
    "$PYTHON" -m pip uninstall --quiet --yes onnxruntime
fi
install "$runtime" "${extras[@]}"
fetch_background_model u2net
"$PYTHON" - <<'END'
import torch

print(f"torch {torch.__version__}, CUDA devices: {torch.cuda.device_count()}")
END
echo "Installed into .venv. Next: README.md, 'From a bare GPU machine to pm2'."
