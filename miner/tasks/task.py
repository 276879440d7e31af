"""A task, its result, and the reasons why it may have none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from miner.config.phase_files import NamedPhase
from miner.ledger import TaskRecord
from pipeline import Candidate, PackedAsset, PipelineError, Prompt, ResultFormat, Score, TextPrompt, UpAxis


class InvalidResult(PipelineError):  # noqa: N818 - the names that operators see in the log
    """A result that the validator would score 0."""


class Withheld(PipelineError):  # noqa: N818
    """A result that the phase's gate does not let through."""


@dataclass(frozen=True, eq=False)
class Task:
    """A request for one object: the prompt, the seed (None for any), and the format and the up axis of the result.

    `deadline` is the moment of time.monotonic() at which its generation should be done; one that is done later is
    delivered all the same. `record` is its place in the ledger; None for what no validator asked for. `threshold` is
    the score from which its validator accepts a result, None if that is not known.
    """

    id: str
    prompt: Prompt
    priority: float
    seed: int | None = None
    format: ResultFormat = "spz"
    up: UpAxis = "y"
    deadline: float = math.inf
    record: TaskRecord | None = None
    threshold: float | None = None

    @property
    def type(self) -> Literal["text", "image"]:
        """The type of the prompt, in the protocol's words."""
        return "text" if isinstance(self.prompt, TextPrompt) else "image"


@dataclass(frozen=True, eq=False)
class Result:
    """The best candidate's files, its phase and score, None if not scored, and all candidates.

    sheets: small pictures of the candidates that have one, by seed, see GenerationJob.
    """

    asset: PackedAsset
    phase: NamedPhase
    score: Score | None
    candidates: tuple[Candidate, ...]
    sheets: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The file that is delivered."""
        return self.asset.data
