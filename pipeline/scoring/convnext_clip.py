"""The network of the text-alignment metric under open_clip's names: CLIP with a ConvNeXt for pictures."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.encoders.layers import embedding_table
from pipeline.scoring.convnext import ConvNext, Mlp

Shapes = Mapping[str, Sequence[int]]
"""The shape of each tensor of a checkpoint, by name."""

# Settings of open_clip that change the network from the one below; the values that it has by default, or has there.
_SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "vision_cfg": {"timm_pool": ("",), "timm_proj": ("mlp",), "timm_proj_bias": (False,)},
    "text_cfg": {
        "hf_model_name": (None,), "embed_cls": (False,), "pool_type": ("argmax",), "no_causal_mask": (False,),
        "proj_type": ("linear",), "proj_bias": (False,), "ls_init_value": (None,), "final_ln_after_pool": (False,),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The sizes of a network.

    depths, widths: blocks and channels of each stage of the ConvNeXt.
    width, layers, heads, context, vocabulary: of the text transformer.
    hidden, embedding: channels between the ConvNeXt and the embedding, and of the embedding.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    hidden: int
    embedding: int

    @staticmethod
    def read(settings: Mapping[str, Any], shapes: Shapes) -> "Architecture":
        """Read the sizes from the `model_cfg` of an open_clip_config.json and the shapes of the checkpoint's tensors.

        The settings name the ConvNeXt without its numbers, so these come from the shapes. Raises KeyError if a setting
        or a tensor is missing, ValueError if the settings ask for another kind of network.
        """
        for section, supported in _SUPPORTED.items():
            for key, values in supported.items():
                if (value := settings[section].get(key, values[0])) not in values:
                    raise ValueError(f"{section}.{key} is {value!r}, only {values[0]!r} is supported")
        if settings.get("quick_gelu"):
            raise ValueError("quick_gelu is not supported")
        trunk, text = "visual.trunk.", settings["text_cfg"]
        depths = _count(shapes, trunk + "stages.{}.blocks.0.gamma")
        embedding, hidden = shapes["visual.head.mlp.fc2.weight"]
        result = Architecture(
            depths=tuple(_count(shapes, f"{trunk}stages.{stage}.blocks.{{}}.gamma") for stage in range(depths)),
            widths=tuple(shapes[f"{trunk}stages.{stage}.blocks.0.gamma"][0] for stage in range(depths)),
            width=int(text["width"]),
            layers=int(text["layers"]),
            heads=int(text["heads"]),
            context=int(text["context_length"]),
            vocabulary=int(text["vocab_size"]),
            hidden=hidden,
            embedding=embedding,
        )
        if not depths or result.width % result.heads:
            raise ValueError(f"{depths} stages, {result.heads} heads of {result.width} channels")
        return result


def _count(shapes: Shapes, name: str) -> int:
    """Return how many tensors there are, from 0, whose index in the name is written as {}."""
    count = 0
    while name.format(count) in shapes:
        count += 1
    return count


class CausalSelfAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it; queries, keys and values are one product."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build attention over [B, T, channels]."""
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        queries, keys, values = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result


class ResidualBlock(nn.Module):
    """Attention and an MLP, each after a norm and added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build a block for [B, T, channels]."""
        super().__init__()
        self.ln_1 = nn.LayerNorm(channels)
        self.attn = CausalSelfAttention(channels, heads)
        self.ln_2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(channels, 4 * channels), gelu=nn.GELU(), c_proj=nn.Linear(4 * channels, channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        x = x + self.attn(self.ln_1(x))
        change: Tensor = self.mlp(self.ln_2(x))
        return x + change


class ConvNextClip(nn.Module):
    """Maps pictures and sentences to embeddings, whose cosine says how well they fit."""

    def __init__(self, sizes: Architecture) -> None:
        """Build a network whose weights are not yet set."""
        super().__init__()
        projection = Mlp(sizes.widths[-1], sizes.hidden, sizes.embedding, bias=False)
        trunk = ConvNext(sizes.depths, sizes.widths)
        self.visual = nn.ModuleDict({"trunk": trunk, "head": nn.ModuleDict({"mlp": projection})})
        self.token_embedding = embedding_table(sizes.vocabulary, sizes.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context, sizes.width))
        blocks = nn.Sequential(*(ResidualBlock(sizes.width, sizes.heads) for _ in range(sizes.layers)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(sizes.width)
        self.text_projection = nn.Parameter(torch.empty(sizes.width, sizes.embedding))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures [V, 3, S, S] to embeddings [V, C], not yet of unit length."""
        vectors = self.visual["trunk"](pixels)
        embeddings: Tensor = self.visual["head"]["mlp"](vectors)  # type: ignore[index]
        return embeddings

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, T], on the CPU, to embeddings [B, C], not yet of unit length.

        A sentence's embedding is read at the first of its tokens with the largest id, the end of the sentence.
        """
        vectors = self.token_embedding(tokens.to(self.token_embedding.weight.device))
        states = vectors.to(self.positional_embedding.device) + self.positional_embedding
        states = self.ln_final(self.transformer["resblocks"](states))
        ends = tokens.argmax(dim=-1)
        embeddings: Tensor = states[range(len(tokens)), ends] @ self.text_projection
        return embeddings

    def store_for_autocast(self, device: torch.device) -> None:
        """Move the weights to a GPU for work under float16 autocast, which reads matrices and kernels as float16.

        Norms, scales and positions stay in float32, as autocast would leave them. So does the table of tokens, which
        stays in the machine's memory, since only the rows of one sentence are needed.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | CausalSelfAttention):
                module.half()
        self.text_projection.data = self.text_projection.half()
        self.to(device)
        self.token_embedding.cpu()
