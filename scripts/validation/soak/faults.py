"""The faults of a soak by name, and which errors in the log each explains."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from scripts.validation.soak import file_faults, process_faults
from scripts.validation.soak.scene import Scene

LEDGER_FAILS = r"The ledger \S+ cannot be written; retrying"
LEDGER_LACKS = r"The ledger lacks what \w+ is about"

Play = Callable[[Scene, random.Random], Awaitable[str]]


@dataclass(frozen=True)
class Fault:
    """What happens, and which errors in the log are right while it does.

    `play` makes it happen, undoes it, and returns what was done in words. Faults of one `group` do not overlap. What
    they bring about may show for `aftermath` seconds more.
    """

    play: Play
    group: str
    explains: tuple[str, ...] = ()
    aftermath: float = 15.0


# A task that was begun in a ledger that is gone may be in hand for so long.
IN_HAND = 150.0
BROKEN_PHASE = (r"; phase \S+ \(\w+\) goes on", r"phase.* cannot be loaded")
FAULTS: dict[str, Fault] = {
    "memory": Fault(process_faults.run_out_of_memory, "device"),
    "nan": Fault(process_faults.make_nan, "device"),
    "scorer": Fault(process_faults.fail_scorer, "device"),
    "decoders": Fault(process_faults.kill_decoders, "decoders"),
    "disk": Fault(process_faults.fill_disk, "storage", (LEDGER_FAILS, r"miner\.log cannot be written")),
    "ledger-locked": Fault(file_faults.lock_ledger, "storage", (LEDGER_FAILS,)),
    "ledger-replaced": Fault(file_faults.replace_ledger, "storage", (LEDGER_FAILS, LEDGER_LACKS), IN_HAND),
    "ledger-wal": Fault(file_faults.remove_wal, "storage", (LEDGER_FAILS, LEDGER_LACKS), IN_HAND),
    "chain": Fault(file_faults.cut_chain, "chain"),
    "vanishing": Fault(file_faults.hide_validator, "chain"),
    "clock": Fault(process_faults.step_clock, "clock"),
    "hangups": Fault(process_faults.hang_up, "hangups"),
    "phase-files": Fault(file_faults.break_phase, "phases", BROKEN_PHASE),
    "split": Fault(file_faults.split, "phases", BROKEN_PHASE),
    "swap": Fault(file_faults.swap_checkpoints, "phases", BROKEN_PHASE),
    "blacklist": Fault(file_faults.edit_blacklist, "policy", (r"the previous rules stay in force",)),
    "monitor": Fault(process_faults.flood_monitor, "monitor"),
    "restarting": Fault(file_faults.restart_validator, "restarting"),
    "children": Fault(process_faults.kill_child, "children"),
}
