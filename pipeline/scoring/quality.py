"""The quality term of the validator's score: one small public network on the views that it renders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels
from pipeline.encoders.dinov2 import Dinov2, Dinov2Sizes, build_dinov2
from pipeline.encoders.settings import EncoderSettings
from pipeline.errors import CheckpointError
from pipeline.rendering.cameras import VALIDATOR_SIZE
from pipeline.scoring.views import VIEW_BATCH
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate_scorer
from pipeline.weights.tensors import assign_tensors, read_tensors

_BACKBONE, _HEAD = "backbone.", "score_head."


@dataclass(frozen=True, eq=False)
class QualityNetwork:
    """Views -> quality in 0..1: DINOv2-small and a linear head, fine-tuned by the subnet, in float32."""

    backbone: Dinov2
    head: nn.Linear

    @staticmethod
    def load(reference: str, device: torch.device) -> "QualityNetwork":
        """Load the network that a phase names, see pipeline.weights.locate.locate_scorer, onto a device.

        Raises CheckpointError if a file is missing, naming the command that downloads it, is damaged or lacks a tensor.
        """
        backbone, head = _load_network(*locate_scorer(reference))
        return QualityNetwork(backbone.to(device), head.to(device))

    def measure(self, views: Tensor) -> float:
        """Return the mean quality of pictures [V, S, S, 3] uint8 on the network's device."""
        return float(torch.cat([self.measure_views(batch) for batch in views.split(VIEW_BATCH)]).mean())

    @torch.inference_mode()
    def measure_views(self, views: Tensor) -> Tensor:
        """Return the quality of each picture: [V, S, S, 3] uint8 on the network's device -> [V] float32 in 0..1."""
        # The validator resizes to 518 pixels, the size that its views have already.
        scaled = views.permute(0, 3, 1, 2).float() / 255
        class_tokens = self.backbone(normalised_pixels(scaled))[:, 0]
        logits: Tensor = self.head(self.backbone.layernorm(class_tokens))
        return logits[:, 0].sigmoid()


def _load_network(weights: Path, config: Path) -> tuple[Dinov2, nn.Linear]:
    """Load backbone and head on the CPU, in float32 and in evaluation mode.

    weights: a safetensors file with backbone.* and score_head.*; config: the directory of the backbone's config.json.
    """
    sizes = Dinov2Sizes.read(EncoderSettings.read(config / "config.json"))
    if sizes.image_size != VALIDATOR_SIZE:
        raise CheckpointError(
            f"{config / 'config.json'} is not supported: image_size is {sizes.image_size}, but the validator's views "
            f"have {VALIDATOR_SIZE} pixels{cure(config / 'config.json')}"
        )
    # Like the validator, ignore other tensors of the file, such as its unused emb_head.
    tensors = read_tensors(weights, lambda name: name.startswith((_BACKBONE, _HEAD)))
    of_backbone, of_head = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in (_BACKBONE, _HEAD)
    )
    with torch.device("meta"):
        head = nn.Linear(sizes.channels, 1)
    assign_tensors(head, of_head, weights, _HEAD)
    return build_dinov2(sizes, of_backbone, weights, _BACKBONE), head
