"""The progress bar of `generate`: one for all candidates of all prompts."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from miner.words import shortened

if TYPE_CHECKING:
    from miner.config.phase import Phase
    from pipeline import Attempt, GenerationJob

NAME_LENGTH = 32
# Of a prompt, what its steps show at most; the rest is shown once its file is written.
ALMOST = 0.99


class GenerationBar:
    """A bar on stderr, if that is a terminal, that only moves forward.

    It moves with each sampling step. Steps of text-to-image are not counted, since only the first candidate has them.
    """

    def __init__(self, prompts: int) -> None:
        """Show nothing done of that many prompts."""
        from tqdm import tqdm

        self._prompts = prompts
        self._begun = 0
        self._name = ""
        bar_format = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = tqdm(total=float(prompts), disable=None, leave=False, miniters=0, bar_format=bar_format)

    def __enter__(self) -> Self:
        """Return the bar itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()

    @property
    def position(self) -> float:
        """The number of prompts that are done, the present one in part."""
        return float(self._bar.n)

    def begin(self, name: str) -> None:
        """Come to the next prompt."""
        self._move_to(self._begun)
        self._begun += 1
        place = f"{self._begun} of {self._prompts}, " if self._prompts > 1 else ""
        self._name = f"{place}{shortened(name, NAME_LENGTH)}"
        self._bar.set_description(self._name)

    def follow(self, job: "GenerationJob", phase: "Phase", count: int) -> "PromptSteps":
        """Return what follows the work on the present prompt, of which there are `count` candidates at most."""
        structure = job.request.sparse_structure_sampler_params.steps
        latents = job.request.slat_sampler_params.steps
        whole, total = structure + latents, count * (structure + latents)
        if count > 1 and job.preview_steps:
            total = whole + (count - 1) * (structure + job.preview_steps) + latents
        return PromptSteps(self._show, whole, total, count, phase.candidates.seconds)

    def echo(self, text: str) -> None:
        """Print a line on stdout, above the bar."""
        with self._bar.external_write_mode():
            click.echo(text)

    def echo_error(self, text: str) -> None:
        """Print an error on stderr, above the bar."""
        with self._bar.external_write_mode():
            click.echo(f"ERROR: {text}", err=True)

    def end(self) -> None:
        """Show that all prompts are done."""
        self._move_to(self._prompts)
        self._bar.refresh()

    def _show(self, share: float, words: str) -> None:
        self._bar.set_description(f"{self._name}, {words}", refresh=False)
        self._move_to(self._begun - 1 + min(share, ALMOST))

    def _move_to(self, position: float) -> None:
        self._bar.update(max(position - self.position, 0.0))


class PromptSteps:
    """Counts the steps of one prompt's candidates, of which time may allow fewer than the phase asks for."""

    def __init__(
        self, show: Callable[[float, str], None], whole: int, total: int, count: int, seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Begin with no step done; `whole` steps are a candidate and `total` all, in `seconds`."""
        self._show = show
        self._whole = whole
        self._total = total
        self._count = count
        self._seconds = seconds
        self._now = now
        self._started_at = now()
        self._done = 0
        self._attempts = 0
        self._words = ""

    def begin(self, attempt: "Attempt") -> None:
        """Note that a candidate, its preview or the rest of it is begun."""
        if attempt.stage == "whole":
            # What was left of one that failed will never come.
            self._done = max(self._done, self._attempts * self._whole)
        self._attempts += 1
        kind = {"whole": "candidate", "preview": "preview", "finish": "finishing"}[attempt.stage]
        number = f" {self._attempts} of {self._count}" if self._count > 1 and attempt.stage != "finish" else ""
        self._words = f"{kind}{number}"

    def step(self, stage: str, _done: int, _steps: int) -> None:
        """Note that a step is done."""
        from pipeline import STAGES

        self._done += stage in STAGES
        by_steps = self._done / self._total
        # Once the time is up, no further candidate is begun; the first one is made however long it takes.
        by_time = min((self._now() - self._started_at) / self._seconds, self._done / self._whole)
        self._show(max(by_steps, by_time), f"{self._words}, {stage}")
