"""The progress bar of `generate` moves forward alone, whatever becomes of candidates."""

import io
import re
import sys
from itertools import pairwise

import pytest

from miner.cli.generation_bar import GenerationBar, PromptSteps
from miner.config import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import load_phase
from miner.tasks import make_request
from pipeline import Attempt, GenerationJob, Stage, TextPrompt

STEPS = 4, 6
WHOLE = sum(STEPS)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; in the test itself, since pytest sets stderr anew after fixtures."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.fixture
def phase() -> Phase:
    shipped = load_phase("demo", shipped_config() / "miner.yaml").settings
    content = shipped.model_dump(exclude_none=True) | {
        "sparse_structure_sampler_params": {"steps": STEPS[0], "cfg_strength": 1},
        "slat_sampler_params": {"steps": STEPS[1], "cfg_strength": 1},
    }
    return Phase.model_validate(content)


def make(steps: PromptSteps, stage: Stage = "whole", latents: int = STEPS[1], structure: int = STEPS[0]) -> None:
    steps.begin(Attempt(1, stage))
    for done in range(structure):
        steps.step("structure", done + 1, STEPS[0])
    for done in range(latents):
        steps.step("latents", done + 1, latents)


class Shown:
    """What is shown of one prompt, on a clock that stands still unless it is moved."""

    def __init__(self, total: int, count: int, seconds: float = 20.0) -> None:
        self.shares: list[float] = [0.0]
        self.words: list[str] = []
        self.clock = 0.0
        self.steps = PromptSteps(self.show, WHOLE, total, count, seconds, lambda: self.clock)

    def show(self, share: float, words: str) -> None:
        self.shares.append(share)
        self.words.append(words)

    @property
    def largest_move(self) -> float:
        return max(after - before for before, after in pairwise(self.shares))


def test_each_step_of_each_candidate_counts_the_same() -> None:
    shown = Shown(3 * WHOLE, 3)
    for _ in range(3):
        make(shown.steps)
    assert shown.shares == pytest.approx([step / 30 for step in range(31)])
    assert shown.words[0] == "candidate 1 of 3, structure"
    assert shown.words[-1] == "candidate 3 of 3, latents"


def test_a_candidate_that_fails_counts_as_made() -> None:
    shown = Shown(2 * WHOLE, 2)
    make(shown.steps, latents=0)
    make(shown.steps)
    assert shown.shares[-1] == 1
    assert shown.shares == sorted(shown.shares)


def test_where_time_allows_one_candidate_it_is_shown_as_all() -> None:
    shown = Shown(10 * WHOLE, 10, seconds=20)
    shown.steps.begin(Attempt(1))
    for number in range(WHOLE):
        shown.clock = 6.0 * (number + 1)
        shown.steps.step("structure" if number < STEPS[0] else "latents", 1, 1)
    assert shown.shares[-1] == 1
    assert shown.largest_move == pytest.approx(0.1)
    assert shown.shares == sorted(shown.shares)


def test_previews_and_drawings(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    use_terminal(monkeypatch)
    job = GenerationJob("a", make_request(TextPrompt("a duck"), 1, phase), preview_steps=2)
    with GenerationBar(1) as bar:
        bar.begin("a duck")
        steps = bar.follow(job, phase, 3)
        positions = []
        # A sentence is drawn once for all candidates.
        steps.step("picture", 4, 4)
        assert bar.position == 0
        for stage, latents, structure in (("whole", 6, 4), ("preview", 2, 4), ("preview", 2, 4), ("finish", 6, 0)):
            make(steps, stage, latents, structure)  # type: ignore[arg-type]
            positions.append(bar.position)
        # 10 steps of a whole one, two previews of 6, and 6 to finish one.
        assert positions == pytest.approx([10 / 28, 16 / 28, 22 / 28, 0.99])
        # One more that time allows.
        make(steps, "finish", 6, 0)
        assert bar.position == pytest.approx(0.99)
        bar.end()
        assert bar.position == 1


def test_one_bar_for_all_prompts(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    terminal = use_terminal(monkeypatch)
    job = GenerationJob("a", make_request(TextPrompt("a duck"), 1, phase))
    positions = []
    with GenerationBar(3) as bar:
        for name in ("a duck", "a chair that is much longer than what fits beside a bar", "a car"):
            bar.begin(name)
            positions.append(bar.position)
            if name != "a car":  # which fails before its first step
                make(bar.follow(job, phase, 1))
                positions.append(bar.position)
            bar.echo(f"{name} is done")
        bar.end()
        positions.append(bar.position)
    assert positions == pytest.approx([0, 0.99, 1, 1.99, 2, 3])
    shown = terminal.getvalue()
    assert "2 of 3, a chair that is much longer tha…, candidate, latents" in shown
    shares = [int(share) for share in re.findall(r"(\d+)%\|", shown)]
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with GenerationBar(1) as bar:
        bar.begin("a duck")
        bar.echo("done")
        bar.end()
    assert capsys.readouterr() == ("done\n", "")
