"""A task, its result, and why there may be none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from miner.config.phase_files import NamedPhase
from miner.ledger.recorder import Entry
from pipeline import Asset, Candidate, PipelineError


class InvalidResult(PipelineError):  # noqa: N818
    """The validator would score the result 0."""


class Withheld(PipelineError):  # noqa: N818
    """The result has less quality than the phase's gate lets through."""


@dataclass(frozen=True)
class Task:
    """What somebody wants: the prompt as it came, the seed (None: any) and the result's format.

    `deadline` is the moment of time.monotonic() at which its generation should be done. One that is done later is
    delivered all the same. `entry` is its place in the ledger; None for what no validator wants.
    """

    id: str
    type: Literal["text", "image"]
    prompt: str
    priority: float
    seed: int | None = None
    data_format: Literal["spz", "ply"] = "spz"
    deadline: float = math.inf
    entry: Entry | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A generated asset and its phase, its file, the file as it travels, and how long the two took to make.

    The asset is the best of the candidates; quality is None if it was not scored.
    """

    asset: Asset
    phase: NamedPhase
    data: bytes
    base64: str
    encode_seconds: float
    quality: float | None
    candidates: tuple[Candidate, ...]
