"""Measure the accepted results an hour of each gate, and compare them with theory.

    python -m scripts.validation.gate [--runs 24] [--tasks 4000] [--seed 0]

A world has a known distribution of scores: normal, with a part that all candidates of a prompt share and one of each
candidate; the best of 1, 2, 4 or 8 is taken. Its chance to pass is a known logistic function of its score. A validator
gives the next task 300 s after the one before, and 900 s if that was rejected. "none" sends everything, "threshold"
what scores at least the validator's threshold, "auto" is the miner's gate, which knows nothing at first and learns
again after every 25 tasks, and "oracle" knows the chance and the best share of slots. "auto, theory" is auto once it
knows both, and still sends one in twenty of the others. "by tasks" is the oracle that takes the share of the tasks for
that of the slots. The last line is JSON. Recorded results: gate.md beside this file.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from miner.analytics import (
    COOLDOWN,
    MAX_OUTCOMES,
    MIN_OUTCOMES,
    PARTIAL_PRIOR,
    PENALTY,
    WHOLE_PRIOR,
    WINDOW_TASKS,
    Bools,
    Calibration,
    Floats,
    Prior,
    Slots,
    break_even_chance,
    fit_calibration,
)
from miner.tasks import EXPLORED_SHARE

CANDIDATES = (1, 2, 4, 8)
# Score less threshold of one candidate: its mean, the deviation of what a prompt's candidates share, and of the rest.
MEAN, OF_PROMPT, OF_CANDIDATE = -0.03, 0.04, 0.05
# Tasks between two refreshes, and those that count as the beginning.
REFRESH, BEGINNING = 25, 500
# Of the integrals over scores.
GRID = np.linspace(-0.5, 0.5, 4001)


@dataclass(frozen=True)
class World:
    """What is true of scores: the margins that the miner computes are off by `offset`, and pass with `truth`."""

    truth: Calibration
    offset: float = 0.0
    is_whole: bool = True

    @property
    def prior(self) -> Prior:
        """The prior of the miner's calibration."""
        return WHOLE_PRIOR if self.is_whole else PARTIAL_PRIOR

    def chances(self, margins: Floats) -> Floats:
        """Return the true chances to pass at the miner's margins [n] -> [n]."""
        return self.truth.predict(margins - self.offset)


WORLDS = {
    "right": World(Calibration(0.0, 45.0)),
    "too high": World(Calibration(0.0, 45.0), offset=0.05),
    "too low": World(Calibration(0.0, 45.0), offset=-0.05),
    "coarse": World(Calibration(0.0, 15.0)),
    "a part is missing": World(Calibration(0.0, 25.0), offset=-0.18, is_whole=False),
}


def draw_margins(rng: np.random.Generator, world: World, candidates: int, shape: tuple[int, ...]) -> Floats:
    """Draw the margins of the best of some candidates, as the miner computes them: [*shape]."""
    best = rng.normal(0, OF_CANDIDATE, (*shape, candidates)).max(axis=-1)
    return np.asarray(MEAN + rng.normal(0, OF_PROMPT, shape) + best + world.offset, np.float64)


def density(world: World, candidates: int) -> Floats:
    """Return the probabilities [g] of the best margin at the points of GRID, which add up to 1."""
    erf = np.vectorize(math.erf)
    z = GRID / OF_CANDIDATE
    best = candidates * np.exp(-(z**2) / 2) * (0.5 * (1 + erf(z / math.sqrt(2)))) ** (candidates - 1)
    shared = np.exp(-(((GRID - MEAN) / OF_PROMPT) ** 2) / 2)
    together = np.convolve(best, shared, mode="same")
    shifted = np.interp(GRID - world.offset, GRID, together)
    return np.asarray(shifted / shifted.sum(), np.float64)


@dataclass(frozen=True)
class Policy:
    """The long run of a rule: shares of the tasks that are accepted and rejected."""

    accepted: float
    rejected: float

    @property
    def per_hour(self) -> float:
        """Accepted results an hour."""
        return 3600 * self.accepted / (COOLDOWN + PENALTY * self.rejected)

    @property
    def share_of_slots(self) -> float:
        """The share of the slots that end accepted."""
        return self.accepted / (1 + PENALTY / COOLDOWN * self.rejected)


class Theory:
    """The long run of each gate in a world, by integration."""

    def __init__(self, world: World, candidates: int) -> None:
        """Prepare the integrals."""
        self._weights = density(world, candidates)
        self._chances = world.chances(GRID)

    def policy(self, sent: Floats) -> Policy:
        """Return the long run if a result at each point of GRID is sent with a probability [g]."""
        return Policy(
            float((self._weights * sent * self._chances).sum()),
            float((self._weights * sent * (1 - self._chances)).sum()),
        )

    def by_chance(self, explored: float = 0.0, share_of: Callable[[Policy], float] | None = None) -> Policy:
        """Return the long run of sending what outweighs the penalty, and some of the rest, once the share is stable."""
        policy = self.policy(np.ones_like(GRID))
        for _ in range(100):
            share = policy.share_of_slots if share_of is None else share_of(policy)
            pays = self._chances > break_even_chance(share)
            policy = self.policy(np.asarray(np.where(pays, 1.0, explored), np.float64))
        return policy

    def rates(self) -> dict[str, float]:
        """Return the accepted results an hour by gate."""
        policies = {
            "none": self.policy(np.ones_like(GRID)),
            "threshold": self.policy((GRID >= 0).astype(np.float64)),
            "auto": self.by_chance(EXPLORED_SHARE),
            "oracle": self.by_chance(),
            "by tasks": self.by_chance(share_of=lambda policy: policy.accepted),
        }
        return {name: policy.per_hour for name, policy in policies.items()}


def rate(sent: Bools, passed: Bools) -> Floats:
    """Return the accepted results an hour of each run: [r, t], [r, t] -> [r]."""
    accepted, rejected = (sent & passed).sum(axis=1), (sent & ~passed).sum(axis=1)
    return np.asarray(3600 * accepted / (COOLDOWN * sent.shape[1] + PENALTY * rejected), np.float64)


def run_auto(world: World, margins: Floats, passed: Bools, draws: Floats) -> Bools:
    """Return which results [t] the miner's gate sends; all arguments are [t]."""
    sent = np.zeros(len(margins), np.bool_)
    for start in range(0, len(margins), REFRESH):
        judged = np.flatnonzero(sent[:start])[-MAX_OUTCOMES:]
        calibration = fit_calibration(margins[judged], passed[judged], world.prior)
        recent = slice(max(start - WINDOW_TASKS, 0), start)
        accepted, rejected = (int((sent[recent] & what[recent]).sum()) for what in (passed, ~passed))
        slots = Slots(accepted, start - recent.start + PENALTY / COOLDOWN * rejected)
        block = slice(start, start + REFRESH)
        if world.is_whole or len(judged) >= MIN_OUTCOMES:
            pays = calibration.predict(margins[block]) > break_even_chance(slots.share)
            sent[block] = pays | (draws[block] < EXPLORED_SHARE)
        else:
            sent[block] = True
    return sent


def simulate(rng: np.random.Generator, world: World, candidates: int, runs: int, tasks: int) -> dict[str, list[float]]:
    """Return the mean of the accepted results an hour, and its standard error, by gate."""
    margins = draw_margins(rng, world, candidates, (runs, tasks))
    chances = world.chances(margins)
    passed, draws = rng.random((runs, tasks)) < chances, rng.random((runs, tasks))
    best = Theory(world, candidates).by_chance()
    auto = np.stack([run_auto(world, margins[run], passed[run], draws[run]) for run in range(runs)])
    rates = {
        "none": rate(np.ones_like(passed), passed),
        "threshold": rate(margins >= 0, passed),
        "auto, first": rate(auto[:, :BEGINNING], passed[:, :BEGINNING]),
        "auto, then": rate(auto[:, BEGINNING:], passed[:, BEGINNING:]),
        "oracle": rate(chances > break_even_chance(best.share_of_slots), passed),
    }
    return {name: [float(found.mean()), float(found.std(ddof=1) / math.sqrt(runs))] for name, found in rates.items()}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    results: dict[str, object] = {}
    for name, world in WORLDS.items():
        for candidates in CANDIDATES:
            found = simulate(rng, world, candidates, options.runs, options.tasks)
            theory = Theory(world, candidates).rates()
            results[f"{name}, {candidates}"] = {"simulated": found, "theory": theory}
            simulated = ", ".join(f"{gate} {mean:.3f} ({error:.3f})" for gate, (mean, error) in found.items())
            print(f"{name}, best of {candidates}: {simulated}", flush=True)
            print("    theory: " + ", ".join(f"{gate} {value:.3f}" for gate, value in theory.items()), flush=True)
    settings = {"runs": options.runs, "tasks": options.tasks, "seed": options.seed}
    print(json.dumps({**settings, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
