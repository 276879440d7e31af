"""When which fault begins in a soak, drawn from its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Before the first fault, the miner works for a while as it does on a good day; after the last it has time to recover.
FIRST_SECONDS, LAST_SHARE = 5.0, 0.9


@dataclass(frozen=True)
class Appointment:
    """A fault and the moment at which it begins, in seconds from the start."""

    at: float
    fault: str


def draw_schedule(faults: Sequence[str], seconds: float, spacing: float, rng: random.Random) -> list[Appointment]:
    """Return appointments some `spacing` seconds apart: rounds of all faults, each in another order."""
    begin, end = FIRST_SECONDS, LAST_SHARE * seconds
    appointments: list[Appointment] = []
    while faults:
        for fault in rng.sample(list(faults), len(faults)):
            at = begin + len(appointments) * spacing + rng.uniform(0.0, spacing)
            if at >= end:
                return appointments
            appointments.append(Appointment(at, fault))
    return appointments
