"""The quality term of the validator's score: one small public network on the views that it renders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels
from pipeline.errors import CheckpointError
from pipeline.scoring.tensors import assign_tensors, read_tensors
from pipeline.scoring.views import VIEW_BATCH
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate_scorer

_BACKBONE, _HEAD = "backbone.", "score_head."
# The published file has the names of transformers 4, which later versions translate in from_pretrained alone.
_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


@dataclass(frozen=True, eq=False)
class QualityNetwork:
    """Views -> quality in 0..1: DINOv2-small and a linear head, fine-tuned by the subnet, in float32."""

    backbone: nn.Module
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
        # The last state is after the network's own final norm; its first token is the class token.
        states: Tensor = self.backbone(normalised_pixels(scaled)).last_hidden_state
        logits: Tensor = self.head(states[:, 0])
        return logits[:, 0].sigmoid()


def _load_network(weights: Path, config: Path) -> tuple[nn.Module, nn.Linear]:
    """Load backbone and head on the CPU, in float32 and in evaluation mode.

    weights: a safetensors file with backbone.* and score_head.*; config: the directory of the backbone's config.json.
    """
    # Imported only when needed, because it is slow.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Dinov2Config, Dinov2Model

    try:
        settings = Dinov2Config.from_pretrained(config, local_files_only=True)
        # On the meta device no time is spent on random weights that are replaced.
        with torch.device("meta"):
            backbone: nn.Module = Dinov2Model(settings)
            head = nn.Linear(settings.hidden_size, 1)
    except (OSError, ValueError, RuntimeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{config / 'config.json'} is not supported: {reason}{cure(weights)}") from None
    # Like the validator, ignore other tensors of the file, such as its unused emb_head.
    tensors = read_tensors(weights, lambda name: name.startswith((_BACKBONE, _HEAD)))
    for prefix, module in ((_BACKBONE, backbone), (_HEAD, head)):
        # The network's names, too, depend on the version of transformers.
        names = {_present_name(prefix + name): name for name in module.state_dict()}
        renamed = {_present_name(name): tensor for name, tensor in tensors.items()}
        known = {names[name]: tensor for name, tensor in renamed.items() if name in names}
        assign_tensors(module, known, weights, prefix)
    return backbone, head


def _present_name(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
