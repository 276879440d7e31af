"""The assignment of an experiment's tasks to its arms."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from miner.ledger import Stratum

# A block counts once its last result is known, which takes long with validators that hand out few tasks.
MAX_BLOCK = 20


@dataclass(frozen=True)
class Experiment:
    """The arms, by name with integer weights, and the seed of their random order.

    Raises ValueError unless there are two arms or more, of positive weights that make blocks of 20 tasks at most.
    """

    seed: int
    weights: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check the arms."""
        if len(self.weights) < 2 or any(weight < 1 for weight in self.weights.values()):
            raise ValueError("an experiment needs at least two arms, each with a weight of 1 or more")
        if len(self.block) > MAX_BLOCK:
            shares = ", ".join(f"{arm}={weight}" for arm, weight in self.weights.items())
            raise ValueError(
                f"{shares} repeats only after {len(self.block)} tasks, and at most {MAX_BLOCK} are allowed: "
                "choose rounder shares, such as 50 and 50 or 70 and 30"
            )

    @cached_property
    def block(self) -> tuple[str, ...]:
        """The arms of a block before they are shuffled, each as often as its weight in lowest terms."""
        divisor = math.gcd(*self.weights.values())
        return tuple(arm for arm, weight in self.weights.items() for _ in range(weight // divisor))

    def arm(self, stratum: Stratum, turn: int) -> str:
        """Return the arm of a stratum's task number `turn`, from 0: a pure function of the seed, to be repeated."""
        block, position = divmod(turn, len(self.block))

        def sort_key(index: int) -> bytes:
            text = "\0".join([str(self.seed), *stratum, str(block), str(index)])
            return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()

        return self.block[sorted(range(len(self.block)), key=sort_key)[position]]
