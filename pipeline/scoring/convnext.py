"""ConvNeXt (Liu et al. 2022) for pictures, under the names that timm gives to its tensors.

States are [B, H, W, C]: channels last, which is the layout that convolutions prefer on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_EPS = 1e-6


class Mlp(nn.Module):
    """Two linear layers with the exact GELU in between."""

    def __init__(self, channels: int, hidden: int, out: int, *, bias: bool = True) -> None:
        """Build the layers; `bias` says whether the second one has a bias."""
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., channels] to [..., out]."""
        result: Tensor = self.fc2(self.act(self.fc1(x)))
        return result


class Block(nn.Module):
    """A depthwise convolution and an MLP, whose scaled output is added to the input."""

    def __init__(self, channels: int) -> None:
        """Build a block for states [B, H, W, channels]."""
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels, 4 * channels, channels)
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map states [B, H, W, C] to states of the same shape."""
        change: Tensor = self.mlp(self.norm(_convolve(self.conv_dw, x)))
        return x + change * self.gamma


class Stage(nn.Module):
    """Blocks of one width, after a convolution that halves the resolution unless it is the first stage."""

    def __init__(self, channels_in: int, channels: int, depth: int) -> None:
        """Build `depth` blocks of `channels`; the resolution is halved if `channels_in` differs."""
        super().__init__()
        self.downsample = nn.Sequential()
        if channels_in != channels:
            self.downsample.append(nn.LayerNorm(channels_in, eps=_EPS))
            self.downsample.append(nn.Conv2d(channels_in, channels, 2, stride=2))
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, channels_in] to [B, H', W', channels]."""
        if self.downsample:
            norm, convolution = self.downsample
            x = _convolve(convolution, norm(x))
        result: Tensor = self.blocks(x)
        return result


class ConvNext(nn.Module):
    """A network that maps a picture to one vector, averaged over its positions and normalised."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int]) -> None:
        """Build a network with as many stages as there are depths; `widths` are their channels, which must grow."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), nn.LayerNorm(widths[0], eps=_EPS))
        before = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(*map(Stage, before, widths, depths))
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(widths[-1], eps=_EPS)})

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, S, S], S a multiple of 32, to vectors [B, C]."""
        convolution, norm = self.stem
        states: Tensor = self.stages(norm(_convolve(convolution, pixels.permute(0, 2, 3, 1))))
        vectors: Tensor = self.head["norm"](states.mean(dim=(1, 2)))
        return vectors


def _convolve(convolution: nn.Module, x: Tensor) -> Tensor:
    """Convolve states [B, H, W, C]; no values are moved, since the permuted tensors have the layout channels_last."""
    result: Tensor = convolution(x.permute(0, 3, 1, 2))
    return result.permute(0, 2, 3, 1)
