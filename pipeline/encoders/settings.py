"""The settings of an encoder's config.json, each of which is checked when it is read."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import CheckpointError
from pipeline.weights.files import read_json
from pipeline.weights.hub_cache import cure

Choice = TypeVar("Choice", bound=str | bool)
# Far above the published networks, and low enough for every tensor's size to be a number that PyTorch takes.
_MOST = 65_536
_MOST_LAYERS = 1024
_MOST_TOKENS = 2**20


class EncoderSettings:
    """The settings of one network. All methods raise CheckpointError, which names the file and the key."""

    def __init__(self, path: Path, values: object) -> None:
        """Take what the JSON file at `path` has for the network, which must be an object."""
        self._path = path
        if not isinstance(values, Mapping):
            raise self._unsupported(f"{values!r} has no settings")
        self._values: Mapping[str, Any] = values

    @staticmethod
    def read(path: Path) -> "EncoderSettings":
        """Read a config.json."""
        return EncoderSettings(path, read_json(path))

    def section(self, key: str) -> "EncoderSettings":
        """Return the settings of a part of the network."""
        if key not in self._values:
            raise CheckpointError(f"{self._path} lacks {key!r}{cure(self._path)}")
        return EncoderSettings(self._path, self._values[key])

    def size(self, key: str, default: int | None = None) -> int:
        """Return a number of channels, pixels or tokens, 1 or more; without a default, the key must be there."""
        return self._integer(key, default, _MOST)

    def picture(self, image_size: int | None = None, patch_size: int | None = None) -> tuple[int, int]:
        """Return the sides in pixels of square pictures and of their patches; the arguments are the defaults."""
        side, patch = self.size("image_size", image_size), self.size("patch_size", patch_size)
        if patch > side:
            raise self._unsupported(f"patches of {patch} pixels (patch_size) in pictures of {side} (image_size)")
        return side, patch

    def layers(self, key: str, default: int | None = None) -> int:
        """Return a number of layers, 1 or more."""
        return self._integer(key, default, _MOST_LAYERS)

    def vocabulary(self, key: str, default: int) -> int:
        """Return a number of tokens that have an id, 1 or more."""
        return self._integer(key, default, _MOST_TOKENS)

    def heads(self, key: str, channels: int, default: int | None = None) -> int:
        """Return a number of attention heads, which must divide the channels."""
        heads = self._integer(key, default, _MOST)
        if channels % heads:
            raise self._unsupported(f"{channels} channels cannot be divided among {heads} heads ({key})")
        return heads

    def epsilon(self, key: str, default: float) -> float:
        """Return what a norm adds to the variance, a positive number."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._unsupported(f"{key} is {value!r}, not a positive number")
        return float(value)

    def choice(self, key: str, supported: Sequence[Choice]) -> Choice:
        """Return one of the supported values, the first of which is the default."""
        value = self._values.get(key, supported[0])
        for known in supported:
            # 1 equals True, but is not meant by it.
            if type(value) is type(known) and value == known:
                return known
        raise self._unsupported(f"{key} is {value!r}, not {' or '.join(map(repr, supported))}")

    def _integer(self, key: str, default: int | None, most: int) -> int:
        value = self._values.get(key, default)
        if value is None:
            raise CheckpointError(f"{self._path} lacks {key!r}{cure(self._path)}")
        if type(value) is not int or not 1 <= value <= most:
            raise self._unsupported(f"{key} is {value!r}, not a whole number from 1 to {most}")
        return value

    def _unsupported(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is not supported: {reason}{cure(self._path)}")
