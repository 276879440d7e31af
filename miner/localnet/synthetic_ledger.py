"""A ledger full of plausible tasks, for measuring and testing reports."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from miner.analytics import Experiment
from miner.ledger import ArmAssignment, Event, Outcome, PhaseAssignment, Stratum, events, open_for_writing

START = 1_762_000_000.0
TASKS_PER_HOUR = 84
# Logits of the acceptance rate: of each phase, and what each validator, by uid, adds to them.
PHASES = {"baseline": -0.5, "phase3": 0.2}
VALIDATORS = {27: 0.6, 49: 0.4, 81: 0.2, 128: 0.0, 142: -0.2, 199: -0.4, 212: -2.5}
CONFIG_HASHES = {"baseline": "9f0c5a1b2d3e", "phase3": "1a2b3c4d5e6f"}
EXPERIMENT_NAME = "2025-11 phase3 baseline"
EXPERIMENT = Experiment(17, {"phase3": 50, "baseline": 50})


def synthesise_events(tasks: int, seed: int = 0, start: float = START) -> Iterator[Event]:
    """Yield the events of tasks from `start`, unix seconds: a third in each of two phases, then a test of both."""
    # Parts of the score are drawn apart, so that they change nothing else.
    rng, score_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    seconds = tasks / TASKS_PER_HOUR * 3600
    yield events.PhaseChanged(start, "baseline", "start", CONFIG_HASHES["baseline"], "note: upstream's values\n")
    yield events.PhaseChanged(start + seconds / 3, "phase3", "apply", CONFIG_HASHES["phase3"], "note: the default\n")
    yield events.ExperimentStarted(EXPERIMENT_NAME, start + seconds * 2 / 3, EXPERIMENT.seed, EXPERIMENT.weights)
    turns: dict[Stratum, int] = {}
    for number in range(tasks):
        at = start + seconds * number / tasks
        uid = int(rng.choice(list(VALIDATORS)))
        stratum = Stratum(f"5Validator{uid:038d}", "text" if rng.random() < 0.2 else "image")
        arm, phase = None, "baseline" if number < tasks / 3 else "phase3"
        if number > tasks * 2 / 3:
            turn = turns[stratum] = turns.get(stratum, -1) + 1
            phase = EXPERIMENT.arm(stratum, turn)
            arm = ArmAssignment(EXPERIMENT_NAME, phase, turn)
        yield events.TaskStarted(
            *(number + 1, at, "pull", stratum.validator, uid, f"task-{number}"),
            task_type="text" if stratum.task_type == "text" else "image",
            assignment=PhaseAssignment(phase, CONFIG_HASHES[phase], arm),
            code_version="0.1.0",
        )
        if rng.random() < 0.02:
            yield events.GenerationFailed(number + 1, at + 3, "InvalidResult: fewer than 7000 gaussians")
            yield events.SubmissionAnswered(number + 1, at + 4, Outcome.SKIPPED)
            continue
        gaussians = int(rng.lognormal(12.7, 0.35))
        logit = PHASES[phase] + VALIDATORS[uid] + 1.2 * (np.log(gaussians) - 12.7) + rng.normal(0, 0.5)
        stages = {"structure": rng.normal(1.5, 0.1), "latents": rng.gamma(4.0, 0.5), "gaussians": 0.2}
        result = events.ResultGenerated(
            *(number + 1, at + sum(stages.values()), number, (number, number + 1), stages),
            statistics=_statistics(rng, gaussians),
            quality=float(0.6 + 0.05 * logit + rng.normal(0, 0.04)),
            submission_bytes=13 * gaussians,
            threshold=0.6,
        )
        yield _with_score(result, score_rng)
        if rng.random() < 0.01:
            outcome = Outcome.NOT_VALIDATED
        else:
            outcome = Outcome.ACCEPTED if rng.logistic() < logit else Outcome.REJECTED
        score = float(np.clip(0.6 + rng.gamma(2.0, 0.04), 0.6, 0.95)) if outcome is Outcome.ACCEPTED else 0.0
        yield events.SubmissionAnswered(number + 1, at + 12, outcome, score=score, cooldown_until=at + 300)


def _statistics(rng: np.random.Generator, gaussians: int) -> dict[str, float]:
    """Return plausible statistics of splats."""
    half = rng.uniform(0.2, 0.5, 3)
    corners = {f"box_min_{axis}": -h for axis, h in zip("xyz", half, strict=True)}
    corners |= {f"box_max_{axis}": h for axis, h in zip("xyz", half, strict=True)}
    others = ("opacity_min", "opacity_mean", "opacity_max", "transparent_share", "scale_p5", "scale_p50", "scale_p95")
    return {
        "gaussians": gaussians,
        "volume": float(8 * half.prod()),
        "density_max": float(rng.poisson(gaussians / 4000)),
        "density_mean": gaussians / 12_000,
        **{name: float(value) for name, value in corners.items()},
        **{name: float(rng.random()) for name in others},
    }


def _with_score(result: events.ResultGenerated, rng: np.random.Generator) -> events.ResultGenerated:
    """Add plausible other parts of the score, and the total by the validator's formula."""
    alignment, ssim, lpips = rng.normal((0.85, 0.86, 0.75), (0.05, 0.03, 0.05)).tolist()
    total = 0.75 * (result.quality or 0.0) + 0.2 * alignment
    total += 0.025 * _sigmoid(35 * (ssim - 0.83)) + 0.025 * lpips * _sigmoid(30 * (lpips - 0.7))
    return replace(result, alignment=alignment, ssim=ssim, lpips=lpips, estimated_score=total)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def fill_ledger(path: Path, tasks: int, start: float = START) -> None:
    """Write a synthetic ledger in one transaction, unlike the miner, which writes each event by itself."""
    with closing(open_for_writing(path)) as database:
        database.execute("BEGIN")
        for event in synthesise_events(tasks, start=start):
            database.execute(*event.statement())
        database.execute("COMMIT")
