"""The weights of the validator's scorer beside the quality network: their published references."""

from pathlib import Path

import torch

from pipeline.errors import CheckpointError

# Validators load it through open_clip, which takes the newest revision.
TEXT_ALIGNMENT = "laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg"
# At the revision that validators use.
IMAGE_ALIGNMENT = "microsoft/LLM2CLIP-Openai-L-14-336@92512331f393a003c3d98404677f991c188162c9"
# The name of AlexNet's file, as torchvision publishes it and torch.hub keeps it.
LPIPS = "alexnet-owt-7be5be79.pth"


def locate_alexnet(reference: str) -> Path:
    """Return the file of AlexNet that a reference names: a path, or LPIPS in the folder where torch.hub keeps files.

    Raises CheckpointError, naming the download command, if it is not on this machine.
    """
    if reference != LPIPS:
        path = Path(reference).expanduser()
        if not path.is_file():
            raise CheckpointError(f"the file {path} does not exist")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS
    if not path.is_file():
        raise CheckpointError(f"{path} is not on this machine: run `sn17-miner weights download {LPIPS}`")
    return path
