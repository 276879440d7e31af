"""What loading networks imports, since imports are most of the miner's start."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.alignment_checkpoints import write_image_alignment, write_text_alignment
from tests.support.paths import ROOT
from tests.support.scorers import write_scorer

SLOW = "transformers", "accelerate", "diffusers", "torch._dynamo", "torch._inductor", "sympy"
PROGRAM = """
import sys
import torch
from PIL import Image
from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.scoring.image_alignment import ImageAlignment
from pipeline.scoring.quality import QualityNetwork
from pipeline.scoring.text_alignment import TextAlignment
from pipeline.weights.locate import locate

for network, directory in zip((QualityNetwork, ImageAlignment, TextAlignment), sys.argv[1:4]):
    network.load(directory, torch.device("cpu"))
image, text = (locate(name, "pipeline.json") for name in ("embedded", "embedded-text"))
device = torch.device("cpu")
ImageEncoder(image / "image_encoder", device)(Image.new("RGB", (518, 518), "red"))
TextEncoder(text / "text_encoder", device)("a red chair")
print(*sorted(set(sys.argv[4:]) & sys.modules.keys()))
"""


@pytest.mark.process
def test_encoders_and_scorers_load_no_library_of_models(tmp_path: Path) -> None:
    """Nor PyTorch's compiler, which it imports for some drawings of initial weights."""
    directories = [tmp_path / name for name in ("quality", "image", "text")]
    for directory, write in zip(directories, (write_scorer, write_image_alignment, write_text_alignment), strict=True):
        directory.mkdir()
        write(directory)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, directories), *SLOW],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert result.stdout.split() == []
