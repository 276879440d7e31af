"""Three quarters of the validator's score: `quality`, which one small public network computes.

The rest of the score, alignment with the prompt and lpips and ssim between views, is NOT computed here, so a quality of
1 does not mean that a result is accepted. The computation follows subnet 17's validation service 2.4.0 (404-Repo,
three-gen-subnet at 5fc61f1), whose quirks are part of the contract: they are reproduced here, each with a comment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.conditioning.image_encoder import normalised_pixels
from pipeline.errors import CheckpointError, NonFiniteOutput, OutOfMemory
from pipeline.rendering.cameras import Camera, validator_cameras
from pipeline.rendering.rasterizer import render
from pipeline.splats.splats import Splats
from pipeline.weights.locate import locate_scorer

# The longest side of the box of the means after the validator's normalisation.
EXTENT = 1.5
# Views that are rendered and scored together; the memory that scoring needs grows with it, the score does not change.
VIEW_BATCH = 4
_BACKBONE, _HEAD = "backbone.", "score_head."
# The published file has the names of transformers 4, which version 5 translates in from_pretrained alone.
_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


@dataclass(frozen=True, eq=False)
class QualityScorer:
    """Splats -> quality in 0..1: DINOv2-small and a linear head, fine-tuned by the subnet, on 16 renders.

    The network runs in float32. Not thread-safe; one call at a time.
    """

    backbone: nn.Module
    head: nn.Linear
    device: torch.device

    @staticmethod
    def load(reference: str, device: torch.device) -> "QualityScorer":
        """Load the scorer that a phase names, see pipeline.weights.locate.locate_scorer, onto a device.

        Raises CheckpointError if a file is missing, naming the command that downloads it, is damaged or lacks a tensor.
        """
        backbone, head = _load_network(*locate_scorer(reference))
        return QualityScorer(backbone.to(device), head.to(device), device)

    @torch.inference_mode()
    def __call__(self, splats: Splats) -> float:
        """Return the quality, in 0..1, of splats as a validator would decode them; they may be on any device.

        A validator scores invalid splats 0 before it renders them, see pipeline.splats.validation.invalid_reason.
        Raises NonFiniteOutput if the splats have no finite size, and OutOfMemory.
        """
        try:
            normalised = normalise_as_validator(splats.to(self.device))
            cameras = validator_cameras()
            batches = [
                self.score_views(render_as_validator(normalised, cameras[start : start + VIEW_BATCH]))
                for start in range(0, len(cameras), VIEW_BATCH)
            ]
            quality = float(torch.cat(batches).mean())
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        else:
            if not 0 <= quality <= 1:
                raise NonFiniteOutput("the quality is not a number")
            return quality
        # Outside the handler, because the error references the tensors of every frame that it passed.
        torch.cuda.empty_cache()
        raise OutOfMemory(f"the GPU has too little memory for scoring ({reason}); lower max_voxels in the phase")

    @torch.inference_mode()
    def score_views(self, pixels: Tensor) -> Tensor:
        """Return the quality of each picture: [V, S, S, 3] uint8 on the scorer's device -> [V] float32 in 0..1."""
        # The validator resizes to 518 pixels, the size that its views have already.
        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        # The last state is after the network's own final norm; its first token is the class token.
        states: Tensor = self.backbone(normalised_pixels(scaled)).last_hidden_state
        logits: Tensor = self.head(states[:, 0])
        return logits[:, 0].sigmoid()

    def warm_up(self) -> None:
        """Draw and score one gaussian, so that the first score is not slower than others."""
        point = torch.zeros(1, 3, device=self.device)
        splats = Splats(point, torch.ones(1, 4, device=self.device), point - 3, point[:, 0], point)
        self.score_views(render_as_validator(splats, validator_cameras()[:VIEW_BATCH]))


def normalise_as_validator(splats: Splats, extent: float = EXTENT) -> Splats:
    """Normalise splats as the validator does before it renders them; `extent` is that of the longest side.

    Raises NonFiniteOutput if there are none, or if they have no finite extent.
    """
    means = splats.means
    side = float((means.amax(0) - means.amin(0)).amax()) if len(means) else 0.0
    if not 0 < side < math.inf:
        raise NonFiniteOutput(f"splats with an extent of {side} cannot be normalised")
    scale = extent / side
    # Quirk of the validator: one mean over x, y and z together, so that an object moves along the diagonal.
    moved = (means - means.mean()) * scale
    # Quirk of the validator: enlarged splats become more transparent, shrunk ones more opaque.
    opacities = (splats.opacity_logits.sigmoid() / scale).clamp(0, 1)
    return replace(
        splats,
        means=moved,
        log_scales=splats.log_scales + math.log(scale),
        opacity_logits=opacities.logit(),
        # The validator ignores higher harmonics.
        f_rest=None,
    )


def render_as_validator(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """Render normalised splats on white: [V, H, W, 3] uint8."""
    # Quirk of the validator: truncated, not rounded.
    return (render(splats, cameras) * 255).to(torch.uint8)


def _load_network(weights: Path, config: Path) -> tuple[nn.Module, nn.Linear]:
    """Load backbone and head on the CPU, in float32 and in evaluation mode.

    weights: a safetensors file with backbone.* and score_head.*; config: the directory of the backbone's config.json.
    """
    # Imported only when needed, because it is slow.
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2Model

    try:
        settings = Dinov2Config.from_pretrained(config, local_files_only=True)
        # On the meta device no time is spent on random weights that are replaced.
        with torch.device("meta"):
            backbone: nn.Module = Dinov2Model(settings)
            head = nn.Linear(settings.hidden_size, 1)
        tensors = {_present_name(name): tensor.float() for name, tensor in load_file(weights).items()}
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise CheckpointError(f"cannot load the scorer {weights}: {' '.join(str(error).split())}") from None
    # Like the validator, ignore other tensors of the file, such as its unused emb_head.
    for prefix, module in ((_BACKBONE, backbone), (_HEAD, head)):
        expected = module.state_dict()
        state = {name: tensors.get(prefix + name) for name in expected}
        wrong = [name for name, tensor in state.items() if tensor is None or tensor.shape != expected[name].shape]
        if wrong:
            raise CheckpointError(
                f"the tensors in {weights} do not fit {config / 'config.json'}: {prefix}{wrong[0]} is missing or has "
                f"another shape ({len(wrong)} such tensors in {prefix}*)"
            )
        module.load_state_dict(state, assign=True)
        module.eval().requires_grad_(False)
    return backbone, head


def _present_name(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
