"""Which arm of an experiment a task is given to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from miner.ledger.events import Stratum

# A block is done when its last result is in: a longer one takes long with validators that give few tasks.
LONGEST_BLOCK = 20


@dataclass(frozen=True)
class Experiment:
    """Arms, by name with integer weights, and the seed of the draw.

    Raises ValueError unless there are two arms or more, of positive weights that make blocks of 20 tasks at most.
    """

    seed: int
    weights: Mapping[str, int]

    def __post_init__(self) -> None:
        if len(self.weights) < 2 or any(weight < 1 for weight in self.weights.values()):
            raise ValueError("an experiment needs at least two arms, each with a weight of 1 or more")
        if len(self.block) > LONGEST_BLOCK:
            shares = ", ".join(f"{arm}={weight}" for arm, weight in self.weights.items())
            raise ValueError(
                f"{shares} repeats only after {len(self.block)} tasks, and at most {LONGEST_BLOCK} are allowed: "
                "choose rounder shares, such as 50 and 50 or 70 and 30"
            )

    @cached_property
    def block(self) -> tuple[str, ...]:
        """The arms of a block, each as often as its weight says in lowest terms; not in the order of the draw."""
        unit = math.gcd(*self.weights.values())
        return tuple(arm for arm, weight in self.weights.items() for _ in range(weight // unit))

    def arm(self, stratum: Stratum, turn: int) -> str:
        """The arm of a stratum's task number `turn`, from 0: the same whenever and wherever it is asked."""
        number, position = divmod(turn, len(self.block))

        def lot(index: int) -> bytes:
            ticket = "\0".join([str(self.seed), *stratum, str(number), str(index)])
            return hashlib.blake2b(ticket.encode("utf-8", "replace"), digest_size=16).digest()

        return self.block[sorted(range(len(self.block)), key=lot)[position]]
