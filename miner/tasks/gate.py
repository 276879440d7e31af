"""Whether a result is sent: by a limit of the phase, or by its chance to pass and what a validator's time is worth.

`gate: auto` sends a result if its odds to pass, p / (1 - p), exceed 2 r, where r is the share of a validator's slots
that end accepted; `miner.analytics.slots` derives this from the protocol's cooldowns, and `miner.analytics.pass_model`
learns p. Of the results that it would withhold, one in twenty is sent all the same, drawn at random, so that their
outcomes go on to be known.
"""

import math
from dataclasses import dataclass

from miner.analytics import Measured, PassModel, break_even_chance, measure
from miner.config.choice_sections import GateSettings
from miner.ledger import GateVerdict
from pipeline import Score

EXPLORED_SHARE = 1 / 20
"""The share of the results to withhold that is sent."""


@dataclass(frozen=True)
class GateDecision:
    """What becomes of a result, why, as a sentence without its end, and the chance to pass that it was based on."""

    verdict: GateVerdict
    reason: str
    pass_probability: float | None = None

    @property
    def is_sent(self) -> bool:
        """Whether the result is sent, be it to explore."""
        return self.verdict != "withheld"


def decide_by_limit(gate: GateSettings, score: Score | None, candidates: int) -> GateDecision:
    """Compare the best of some candidates with the phase's limit; what could not be scored is sent."""
    name, limit = ("score", gate.score) if gate.quality is None else ("quality", gate.quality)
    value = None if score is None else score.total if name == "score" else score.quality
    if value is None or limit is None:
        return GateDecision("sent", f"its {name} is not known")
    subject = f"the best of {candidates} has" if candidates > 1 else "it has"
    reason = f"{subject} {name} {value:.3f}, the phase's gate asks for {limit:g}"
    return GateDecision("sent" if value >= limit else "withheld", reason)


def decide_by_chance(
    model: PassModel | None, task_type: str, score: Score | None, threshold: float | None, draw: float
) -> GateDecision:
    """Weigh the chance to pass against the penalty.

    `threshold` is the score from which the validator accepts, None if it told none. `draw` is uniform in [0, 1).
    Without a model, or if the model tells nothing about such scores, the result is sent.
    """
    if model is None:
        return GateDecision("sent", "the outcomes so far are not known")
    measured = None if score is None else measure(task_type, score.quality, score.alignment, score.total)
    if measured is None:
        return GateDecision("sent", "it has no score")
    chance = _chance(model, measured, threshold)
    if chance is None:
        return GateDecision("sent", f"too few outcomes tell what its {measured.kind.parts} means")
    enough = break_even_chance(model.slots.share)
    reason = f"it passes with a chance of {100 * chance:.0f} % ({score}), and sending pays from {100 * enough:.0f} % on"
    if chance > enough:
        return GateDecision("sent", reason, chance)
    if draw < EXPLORED_SHARE:
        return GateDecision("explored", f"{reason}; one in {1 / EXPLORED_SHARE:.0f} such is sent to learn", chance)
    return GateDecision("withheld", reason, chance)


def _chance(model: PassModel, measured: Measured, threshold: float | None) -> float | None:
    # A validator computes no number either, and rejects what has none.
    return 0.0 if math.isnan(measured.value) else model.chance(measured, threshold)
