"""DINOv2, with and without registers, under the names that its tensors have in the published files.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", arXiv:2304.07193; Darcet et al., "Vision
Transformers Need Registers", arXiv:2309.16588.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.encoders.layers import Mlp, attend
from pipeline.encoders.settings import EncoderSettings
from pipeline.weights.tensors import assign_tensors

PLAIN, WITH_REGISTERS = "dinov2", "dinov2_with_registers"
# What replaces masked patches in training, which no file lacks and no inference needs.
MASK_TOKEN = "embeddings.mask_token"  # noqa: S105 - not a password
_COLOURS = 3
# The names that release 5 of transformers has in memory, and thus in files that are not written by its save_pretrained.
_PUBLISHED = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.down_proj.": ".mlp.weights_out.",
}
_GATE, _UP, _GATE_AND_UP = ".mlp.gate_proj.", ".mlp.up_proj.", ".mlp.weights_in."


@dataclass(frozen=True)
class Dinov2Sizes:
    """The architecture of a DINOv2.

    hidden:       channels inside the MLP of a block.
    image_size:   side in pixels of the square pictures that the network takes.
    registers:    tokens besides the class token and those of patches.
    has_qkv_bias: whether queries, keys and values have a bias.
    is_gated:     whether MLPs are SwiGLU, as in the giant.
    """

    channels: int
    layers: int
    heads: int
    hidden: int
    image_size: int
    patch_size: int
    registers: int
    norm_eps: float
    has_qkv_bias: bool
    is_gated: bool

    @staticmethod
    def read(settings: EncoderSettings) -> "Dinov2Sizes":
        """Read the settings of Dinov2Model or Dinov2WithRegistersModel.

        Raises CheckpointError if one is missing, invalid or not supported.
        """
        kind = settings.choice("model_type", (PLAIN, WITH_REGISTERS))
        settings.choice("hidden_act", ("gelu",))
        channels = settings.size("hidden_size")
        is_gated = settings.choice("use_swiglu_ffn", (False, True))
        hidden = channels * settings.size("mlp_ratio", 4)
        image_size, patch_size = settings.picture()
        return Dinov2Sizes(
            channels=channels,
            layers=settings.layers("num_hidden_layers"),
            heads=settings.heads("num_attention_heads", channels),
            # Two thirds, rounded up to a multiple of 8, so that the three matrices have as many weights as two.
            hidden=(int(hidden * 2 / 3) + 7) // 8 * 8 if is_gated else hidden,
            image_size=image_size,
            patch_size=patch_size,
            registers=settings.size("num_register_tokens", 4) if kind == WITH_REGISTERS else 0,
            norm_eps=settings.epsilon("layer_norm_eps", 1e-6),
            has_qkv_bias=settings.choice("qkv_bias", (True, False)),
            is_gated=is_gated,
        )


def build_dinov2(sizes: Dinov2Sizes, tensors: Mapping[str, Tensor], path: Path, prefix: str = "") -> "Dinov2":
    """Build a network in evaluation mode with the tensors of a published file, without copying them.

    prefix: what precedes the tensors' names in the file `path`. Raises CheckpointError if a tensor is missing, left
    over or of another shape.
    """
    # On the meta device no time is spent on random weights that are replaced.
    with torch.device("meta"):
        network = Dinov2(sizes)
    assign_tensors(network, _with_published_names(tensors), path, prefix)
    return network


def _with_published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for present, published in _PUBLISHED.items():
            name = name.replace(present, published)
        renamed[name] = tensor
    for name in [name for name in renamed if _GATE in name]:
        up = name.replace(_GATE, _UP)
        # Others stay, and are told as tensors that do not fit.
        if up in renamed and renamed[up].ndim and renamed[up].shape == renamed[name].shape:
            renamed[name.replace(_GATE, _GATE_AND_UP)] = torch.cat([renamed.pop(name), renamed.pop(up)])
    renamed.pop(MASK_TOKEN, None)
    return renamed


class Dinov2(nn.Module):
    """Maps pictures to states of tokens: the class token, the registers and the patches, row by row.

    layernorm: the final norm, which `forward` leaves to its caller.
    """

    def __init__(self, sizes: Dinov2Sizes) -> None:
        """Build a network whose weights are not yet set."""
        super().__init__()
        self.embeddings = _Embeddings(sizes)
        blocks = nn.Sequential(*(_Block(sizes) for _ in range(sizes.layers)))
        self.encoder = nn.ModuleDict({"layer": blocks})
        self.layernorm = nn.LayerNorm(sizes.channels, eps=sizes.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, S, S], S the configured size, to states before the final norm [B, T, C]."""
        return self.encoder["layer"](self.embeddings(pixels))


class _Embeddings(nn.Module):
    """The tokens of a picture: a learnt class token, learnt registers, and a projection of each patch.

    All but the registers have a learnt position.
    """

    def __init__(self, sizes: Dinov2Sizes) -> None:
        super().__init__()
        channels, patch_size = sizes.channels, sizes.patch_size
        patches = (sizes.image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        self.register_tokens = nn.Parameter(torch.empty(1, sizes.registers, channels)) if sizes.registers else None
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + patches, channels))
        projection = nn.Conv2d(_COLOURS, channels, patch_size, stride=patch_size)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures [B, 3, S, S] to tokens [B, T, C]."""
        patches = self.patch_embeddings["projection"](pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.position_embeddings
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(len(pixels), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)


class _Block(nn.Module):
    """Attention and an MLP, each after a norm, scaled channel by channel, and added to its input."""

    def __init__(self, sizes: Dinov2Sizes) -> None:
        super().__init__()
        channels = sizes.channels
        self.norm1 = nn.LayerNorm(channels, eps=sizes.norm_eps)
        self.attention = _Attention(sizes)
        self.layer_scale1 = _LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=sizes.norm_eps)
        self.mlp = _GatedMlp(channels, sizes.hidden) if sizes.is_gated else Mlp(channels, sizes.hidden, "gelu")
        self.layer_scale2 = _LayerScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        x = self.layer_scale1(self.attention(self.norm1(x))) + x
        return self.layer_scale2(self.mlp(self.norm2(x))) + x


class _Attention(nn.Module):
    def __init__(self, sizes: Dinov2Sizes) -> None:
        super().__init__()
        self._heads = sizes.heads
        channels = sizes.channels
        self.attention = nn.ModuleDict(
            {name: nn.Linear(channels, channels, bias=sizes.has_qkv_bias) for name in ("query", "key", "value")}
        )
        self.output = nn.ModuleDict({"dense": nn.Linear(channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (self.attention[name](x) for name in ("query", "key", "value"))
        return self.output["dense"](attend(queries, keys, values, self._heads))


class _LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class _GatedMlp(nn.Module):
    """SwiGLU (Shazeer, arXiv:2002.05202): a linear layer, gated by the SiLU of another, and a third after them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weights_in = nn.Linear(channels, 2 * hidden)
        self.weights_out = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * up)
