"""The part of the validator's score that one small public network decides: `quality`, three quarters of it.

The rest of the score, alignment with the prompt, lpips and ssim between views, is NOT computed here: a quality of 1 is
no promise that a result is accepted. What is computed follows subnet 17's validation service 2.4.0 (404-Repo,
three-gen-subnet at 5fc61f1), whose quirks are part of the contract: they are repeated here, each with a remark.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels
from pipeline.errors import CheckpointError, NonFiniteOutput, OutOfMemory
from pipeline.rendering.cameras import VALIDATOR_SIZE, Camera, validator_views
from pipeline.rendering.rasterizer import render
from pipeline.splats.splats import Splats
from pipeline.weights.locate import locate_scorer

# The longest side of the box of the points, after the validator's normalisation.
EXTENT = 1.5
# Views that are drawn and judged together: what memory a score takes grows with them, its value does not depend on it.
VIEWS_AT_ONCE = 4
_BACKBONE, _HEAD = "backbone.", "score_head."


class QualityScorer:
    """Splats -> quality in 0..1: DINOv2-small and a linear head on 16 renders, fine-tuned by the subnet.

    Alignment with the prompt, lpips and ssim, the other quarter of the validator's score, are not computed. The network
    runs in float32. One call at a time.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device) -> None:
        """weights: a safetensors file with backbone.* and score_head.*; config: the directory of its config.json.

        Raises CheckpointError if a file is missing or damaged, or lacks a tensor of the backbone or of the head.
        """
        self._backbone, self._head = _network(weights, config)
        self._backbone.to(device)
        self._head.to(device)
        self._device = device

    @staticmethod
    def load(reference: str, device: torch.device) -> QualityScorer:
        """The scorer whose weights are named as in a phase; see pipeline.weights.locate.locate_scorer.

        Raises CheckpointError, which names the command that gets what is missing.
        """
        return QualityScorer(*locate_scorer(reference), device)

    @torch.inference_mode()
    def __call__(self, splats: Splats) -> float:
        """The quality of splats as a validator would decode them, in 0..1, whatever device they are on.

        A validator answers invalid splats with 0 before it looks at them; ask pipeline.splats.splats.validity for that.
        Raises NonFiniteOutput if the splats cannot be brought to size, OutOfMemory.
        """
        try:
            shown = as_validators_see(splats.to(self._device))
            cameras = validator_views()
            parts = [
                self.judge(validator_pixels(shown, cameras[start : start + VIEWS_AT_ONCE]))
                for start in range(0, len(cameras), VIEWS_AT_ONCE)
            ]
            quality = float(torch.cat(parts).mean())
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        else:
            if not 0 <= quality <= 1:
                raise NonFiniteOutput("the quality is not a number")
            return quality
        # Outside the handler, since the error holds on to the tensors of every frame it came through.
        torch.cuda.empty_cache()
        raise OutOfMemory(f"the GPU's memory does not suffice for scoring ({reason}); lower max_voxels in the phase")

    @torch.inference_mode()
    def judge(self, pixels: Tensor) -> Tensor:
        """Pictures [V, S, S, 3] uint8 on the scorer's device -> the quality of each, [V] float32 in 0..1."""
        # The validator resizes to 518 pixels, which its views have already.
        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        # The last state has been through the network's own final norm; its first token is the class token.
        states: Tensor = self._backbone(normalised_pixels(scaled)).last_hidden_state
        logits: Tensor = self._head(states[:, 0])
        return logits[:, 0].sigmoid()

    def warm_up(self) -> None:
        """Run the network once, so that the first score is no slower than others."""
        size = (VIEWS_AT_ONCE, VALIDATOR_SIZE, VALIDATOR_SIZE, 3)
        self.judge(torch.full(size, 255, dtype=torch.uint8, device=self._device))


def as_validators_see(splats: Splats) -> Splats:
    """The splats as the validator normalises them before it draws them.

    Raises NonFiniteOutput if there are none, or if they have no finite extent.
    """
    means = splats.means
    side = float((means.amax(0) - means.amin(0)).amax()) if len(means) else 0.0
    if not 0 < side < math.inf:
        raise NonFiniteOutput(f"splats with an extent of {side} cannot be brought to size")
    scale = EXTENT / side
    # Quirk of the validator's: one mean over x, y and z together, so an object moves along the diagonal.
    moved = (means - means.mean()) * scale
    # Quirk of the validator's: what is enlarged becomes more transparent, what is shrunk more opaque.
    opacities = (splats.opacity_logits.sigmoid() / scale).clamp(0, 1)
    return dataclasses.replace(
        splats,
        means=moved,
        log_scales=splats.log_scales + math.log(scale),
        opacity_logits=opacities.logit(),
        # Higher bands are ignored by the validator.
        f_rest=None,
    )


def validator_pixels(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """Normalised splats as pictures on white: [V, H, W, 3] uint8."""
    # Quirk of the validator's: truncated and not rounded.
    return (render(splats, cameras) * 255).to(torch.uint8)


def _network(weights: Path, config: Path) -> tuple[nn.Module, nn.Linear]:
    """Backbone and head, on the CPU in float32, in evaluation mode."""
    # Imported only when needed, since it is slow.
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2Model

    try:
        settings = Dinov2Config.from_pretrained(config, local_files_only=True)
        # No time is spent on random weights that are replaced.
        with torch.device("meta"):
            backbone: nn.Module = Dinov2Model(settings)
            head = nn.Linear(settings.hidden_size, 1)
        tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise CheckpointError(f"cannot load the scorer {weights}: {' '.join(str(error).split())}") from None
    # The validator ignores what the network has no place for, such as its unused emb_head.
    for prefix, part in ((_BACKBONE, backbone), (_HEAD, head)):
        wanted = part.state_dict()
        found = {name: tensors.get(prefix + name) for name in wanted}
        wrong = [name for name, tensor in found.items() if tensor is None or tensor.shape != wanted[name].shape]
        if wrong:
            raise CheckpointError(
                f"the tensors in {weights} do not fit {config / 'config.json'}: {prefix}{wrong[0]} is missing or of "
                f"another shape ({len(wrong)} such of {prefix}*)"
            )
        part.load_state_dict(found, assign=True)
        part.eval().requires_grad_(False)
    return backbone, head
