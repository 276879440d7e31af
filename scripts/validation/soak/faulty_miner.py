"""The miner as `python neurons/miner.py`, with faults from inside its process, as lines on its stdin ask for them.

A line is a name and a number: `clock SECONDS` puts the wall clock ahead by so many seconds, and any other name lets the
next so many calls of that kind fail. Each fault that happens is told in a line on stderr.
"""

import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from miner.gpu import build
from miner.phases import experiment_monitor
from miner.pull import state_machine
from pipeline import Prompt, Score, ScoredViews, Scorer, ScoreSplats, Splats, ValidatorScorer
from pipeline.generator import Generator
from pipeline.sampling.engine import Engine
from pipeline.splats.container import Container

# In the repository's root, from where developers' commands are run.
ENTRY_POINT = "neurons/miner.py"
INJECTED = "INJECTED "
# The stages in which memory may run out, and the methods that they are.
STAGES: dict[str, tuple[type, str]] = {
    "encode": (Generator, "encode"),
    "sample_structure": (Engine, "sample_structure"),
    "decode_structure": (Engine, "decode_structure"),
    "sample_latents": (Engine, "sample_latents"),
    "decode_latents": (Engine, "decode_latents"),
    "pack": (Container, "pack"),
}
SCORER = "scorer"
# In place of a validator's views, whose drawing would take a CPU minutes.
VIEWS = torch.zeros(16, 518, 518, 3, dtype=torch.uint8)
# Networks whose outputs may become NaN.
NAN_STAGES = ("decode_structure", "decode_latents")
# The miner's times that go with the subnet's, some fifteen times shorter: the seconds after which an experiment is
# looked at, an unknown cooldown is over, and a validator that locked out a submission is tried again.
EXPERIMENT_INTERVAL, USUAL_COOLDOWN, LOCK_DELAY = 5.0, 22.0, 3.0


class Orders:
    """The faults that are still to happen, and the error of the clock."""

    def __init__(self) -> None:
        """Begin without any."""
        self.ahead = 0.0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def read(self) -> None:
        """Take orders from stdin until it is closed."""
        for line in sys.stdin:
            name, number = line.split()
            with self._lock:
                if name == "clock":
                    self.ahead = float(number)
                else:
                    self._counts[name] = int(number)

    def take(self, name: str) -> bool:
        """Return whether a call is to fail, and tell of it."""
        with self._lock:
            if self._counts[name] <= 0:
                return False
            self._counts[name] -= 1
        print(f"{INJECTED}{name}", file=sys.stderr, flush=True)
        return True


class FormulaScorer(Scorer):
    """Takes the place of the scorer, whose weights are not shipped: a number from the splats, unless it is to fail."""

    missing: tuple[str, ...] = ()
    is_empty = False

    def __init__(self, orders: Orders) -> None:
        """Fail as ordered."""
        self._orders = orders

    def warm_up(self) -> None:
        """Do nothing."""

    def for_prompt(self, prompt: Prompt) -> ScoreSplats:
        """Return the function that scores results."""

        def score(splats: Splats) -> ScoredViews:
            if self._orders.take(SCORER):
                raise RuntimeError("the scorer fails, as ordered")
            if self._orders.take(f"memory:{SCORER}"):
                raise out_of_memory()
            return ScoredViews(Score(quality=0.5 + 0.5 * float(torch.sigmoid(splats.opacity_logits).mean())), VIEWS)

        return score


def out_of_memory() -> torch.OutOfMemoryError:
    """Return what torch raises when the GPU's memory does not suffice."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none")


def fail_as_ordered(owner: type, method: str, orders: Orders, stage: str) -> None:
    """Let a method run out of memory whenever it is ordered."""
    original: Callable[..., Any] = getattr(owner, method)

    @wraps(original)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if orders.take(f"memory:{stage}"):
            raise out_of_memory()
        return original(*arguments, **keywords)

    setattr(owner, method, call)


def spoil_as_ordered(stage: str, orders: Orders) -> None:
    """Let the engine's decoder of a stage get NaN whenever it is ordered."""
    original: Callable[..., Any] = getattr(Engine, stage)

    @wraps(original)
    def call(engine: Engine, tensor: torch.Tensor, *arguments: Any) -> Any:
        if orders.take(f"nan:{stage}"):
            tensor = torch.full_like(tensor, torch.nan)
        return original(engine, tensor, *arguments)

    setattr(Engine, stage, call)


def use_instead(owner: object, name: str, value: object) -> None:
    """Put something in the place of a part of the product."""
    setattr(owner, name, value)


def main(workers: int) -> None:
    """Start the miner with the command line; several workers have a process each, in which no call is made to fail."""
    orders = Orders()
    wall, wall_ns = time.time, time.time_ns
    use_instead(time, "time", lambda: wall() + orders.ahead)
    use_instead(time, "time_ns", lambda: wall_ns() + int(orders.ahead * 1e9))
    for stage, (owner, method) in STAGES.items():
        fail_as_ordered(owner, method, orders, stage)
    for stage in NAN_STAGES:
        spoil_as_ordered(stage, orders)
    use_instead(ValidatorScorer, "load", lambda *_, **__: FormulaScorer(orders))
    use_instead(experiment_monitor, "INTERVAL", EXPERIMENT_INTERVAL)
    use_instead(state_machine, "USUAL_COOLDOWN", USUAL_COOLDOWN)
    use_instead(state_machine, "LOCK_DELAY", LOCK_DELAY)
    if workers > 1:
        # A machine may have several GPUs, but the CPU is one device.
        use_instead(build, "choose_devices", lambda _: ("cpu",) * workers)
    threading.Thread(target=orders.read, name="orders", daemon=True).start()
    sys.argv[0] = ENTRY_POINT
    runpy.run_path(ENTRY_POINT, run_name="__main__")
