"""CLIP's text model and vision tower, under the names that their tensors have in the published files.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.encoders.layers import Activation, Mlp, attend, embedding_table
from pipeline.encoders.settings import EncoderSettings
from pipeline.errors import CheckpointError
from pipeline.weights.hub_cache import cure
from pipeline.weights.tensors import assign_tensors

_COLOURS = 3
# Indices 0, 1, 2, …, which old files hold as a tensor.
_POSITIONS = "embeddings.position_ids"
_PROJECTION = "visual_projection.weight"
_ACTIVATIONS: Sequence[Activation] = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class TransformerSizes:
    """The architecture of a transformer; hidden: channels inside the MLP of a block."""

    channels: int
    layers: int
    heads: int
    hidden: int
    activation: Activation
    norm_eps: float

    @staticmethod
    def read(settings: EncoderSettings, channels: int, layers: int, heads: int, hidden: int) -> "TransformerSizes":
        """Read the sizes, with the defaults that configurations which were written by transformers leave out."""
        channels = settings.size("hidden_size", channels)
        return TransformerSizes(
            channels=channels,
            layers=settings.layers("num_hidden_layers", layers),
            heads=settings.heads("num_attention_heads", channels, heads),
            hidden=settings.size("intermediate_size", hidden),
            activation=settings.choice("hidden_act", _ACTIVATIONS),
            norm_eps=settings.epsilon("layer_norm_eps", 1e-5),
        )


@dataclass(frozen=True)
class ClipTextSizes:
    """The architecture of a text model, which takes up to `positions` of `vocabulary` different tokens."""

    transformer: TransformerSizes
    vocabulary: int
    positions: int

    @staticmethod
    def read(settings: EncoderSettings) -> "ClipTextSizes":
        """Read the settings of CLIPTextModel. Raises CheckpointError if one is invalid or not supported."""
        return ClipTextSizes(
            TransformerSizes.read(settings, channels=512, layers=12, heads=8, hidden=2048),
            vocabulary=settings.vocabulary("vocab_size", 49_408),
            positions=settings.size("max_position_embeddings", 77),
        )


@dataclass(frozen=True)
class ClipVisionSizes:
    """The architecture of a vision tower, which takes square pictures of `image_size` pixels."""

    transformer: TransformerSizes
    image_size: int
    patch_size: int

    @staticmethod
    def read(settings: EncoderSettings) -> "ClipVisionSizes":
        """Read the settings of CLIPVisionModel. Raises CheckpointError if one is invalid or not supported."""
        transformer = TransformerSizes.read(settings, channels=768, layers=12, heads=12, hidden=3072)
        image_size, patch_size = settings.picture(image_size=224, patch_size=32)
        return ClipVisionSizes(transformer, image_size, patch_size)


def build_clip_text(sizes: ClipTextSizes, tensors: Mapping[str, Tensor], path: Path) -> "ClipText":
    """Build a text model in evaluation mode with the tensors of the published file `path`, without copying them.

    Raises CheckpointError if a tensor is missing, left over or of another shape.
    """
    # On the meta device no time is spent on random weights that are replaced.
    with torch.device("meta"):
        network = ClipText(sizes)
    # Files of a whole CLIP, and all that transformers wrote before release 5, have the prefix.
    weights = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    weights.pop(_POSITIONS, None)
    assign_tensors(network, weights, path)
    return network


def build_clip_vision(sizes: ClipVisionSizes, tensors: Mapping[str, Tensor], path: Path) -> "ClipVision":
    """Build a vision tower and its projection as `build_clip_text` does; the projection may have a bias.

    Raises CheckpointError if a tensor is missing, left over or of another shape.
    """
    weights = {name: tensor for name, tensor in tensors.items() if name != f"vision_model.{_POSITIONS}"}
    projection = weights.get(_PROJECTION)
    if projection is None or projection.ndim != 2 or not len(projection):
        raise CheckpointError(f"{path} lacks {_PROJECTION!r}, a matrix{cure(path)}")
    with torch.device("meta"):
        network = ClipVision(sizes, len(projection), has_bias="visual_projection.bias" in weights)
    assign_tensors(network, weights, path)
    return network


class ClipText(nn.Module):
    """Maps token ids to states, each of which depends on the tokens up to its own."""

    def __init__(self, sizes: ClipTextSizes) -> None:
        """Build a network whose weights are not yet set."""
        super().__init__()
        channels = sizes.transformer.channels
        self.embeddings = _TokenEmbeddings(sizes.vocabulary, sizes.positions, channels)
        self.encoder = _encoder(sizes.transformer, is_causal=True)
        self.final_layer_norm = nn.LayerNorm(channels, eps=sizes.transformer.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, T] int64 to states after the final norm [B, T, C]."""
        return self.final_layer_norm(self.encoder["layers"](self.embeddings(tokens)))


class ClipVision(nn.Module):
    """Maps pictures to embeddings: a vision tower, and a projection of its class token."""

    def __init__(self, sizes: ClipVisionSizes, embedding: int, *, has_bias: bool) -> None:
        """Build a network whose weights are not yet set, for embeddings of so many channels.

        has_bias: whether the projection has a bias, which CLIP's own has not.
        """
        super().__init__()
        self.vision_model = _VisionTower(sizes)
        self.visual_projection = nn.Linear(sizes.transformer.channels, embedding, bias=has_bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, S, S], S the configured size, to embeddings [B, E], not of unit length."""
        return self.visual_projection(self.vision_model(pixels))


class _TokenEmbeddings(nn.Module):
    """A learnt vector for each token, and one for each position."""

    def __init__(self, vocabulary: int, positions: int, channels: int) -> None:
        super().__init__()
        self.token_embedding = embedding_table(vocabulary, channels)
        self.position_embedding = embedding_table(positions, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, T] to vectors [B, T, C]."""
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class _VisionTower(nn.Module):
    def __init__(self, sizes: ClipVisionSizes) -> None:
        super().__init__()
        channels, norm_eps = sizes.transformer.channels, sizes.transformer.norm_eps
        self.embeddings = _PatchEmbeddings(channels, sizes.image_size, sizes.patch_size)
        # The published files have this name.
        self.pre_layrnorm = nn.LayerNorm(channels, eps=norm_eps)
        self.encoder = _encoder(sizes.transformer, is_causal=False)
        self.post_layernorm = nn.LayerNorm(channels, eps=norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures [B, 3, S, S] to the states of their class tokens [B, C]."""
        states = self.encoder["layers"](self.pre_layrnorm(self.embeddings(pixels)))
        return self.post_layernorm(states[:, 0])


class _PatchEmbeddings(nn.Module):
    """The tokens of a picture: a learnt class token and a projection of each patch, with learnt positions."""

    def __init__(self, channels: int, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(channels))
        self.patch_embedding = nn.Conv2d(_COLOURS, channels, patch_size, stride=patch_size, bias=False)
        self.position_embedding = embedding_table(1 + (image_size // patch_size) ** 2, channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures [B, 3, S, S] to tokens [B, T, C]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        return tokens + self.position_embedding.weight


def _encoder(sizes: TransformerSizes, *, is_causal: bool) -> nn.ModuleDict:
    """Build the blocks, which take [B, T, C]."""
    blocks = (_Block(sizes, is_causal=is_causal) for _ in range(sizes.layers))
    return nn.ModuleDict({"layers": nn.Sequential(*blocks)})


class _Block(nn.Module):
    """Attention and an MLP, each after a norm and added to its input."""

    def __init__(self, sizes: TransformerSizes, *, is_causal: bool) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(sizes.channels, eps=sizes.norm_eps)
        self.self_attn = _SelfAttention(sizes.channels, sizes.heads, is_causal=is_causal)
        self.layer_norm2 = nn.LayerNorm(sizes.channels, eps=sizes.norm_eps)
        self.mlp = Mlp(sizes.channels, sizes.hidden, sizes.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self._heads, self._is_causal = heads, is_causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        mixed = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self._heads, is_causal=self._is_causal)
        return self.out_proj(mixed)
