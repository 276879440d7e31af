"""Swap one checkpoint for another while tasks are generated: python scripts/proofs/swap.py [--checkpoint text-xlarge]

Two checkpoints with random weights, a scheduler with two tasks waiting at any time, the loader and the manager that the
miner has; no network and no background model. Tells how many tasks were made by which, how long the swap took from the
changed state to the first task of the new phase, and the memory of the GPU: with one, with both, and after the old
one's last task, also as /health tells it. Needs neither bittensor nor rembg. Exit 1 if a task was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from miner.config.phase_files import load_phase
from miner.config.settings import MinerSettings
from miner.gpu.models import load, release
from miner.gpu.scheduler import Scheduler
from miner.phases.manager import PhaseFiles, PhaseManager
from miner.phases.state import PhaseChoice, PhaseState, StateFile
from miner.runtime.gpu_memory import read_gpu_memory
from pipeline import Backend, EmptyStructure, OnStep, Request, VoxelLimit, parse_text_prompt
from pipeline.weights import random_init as random_checkpoint

AT_ONCE = 2
AFTERWARDS = 4
STOP_TIMEOUT = 10.0
GIB = 2**30
PHASE = """
text: {{checkpoint: {checkpoint}}}
sparse_structure_sampler_params: {{steps: {steps}, cfg_strength: 7.5, cfg_interval: [0.5, 1.0], rescale_t: 3.0}}
slat_sampler_params: {{steps: {steps}, cfg_strength: 3.0, cfg_interval: [0.5, 1.0], rescale_t: 3.0}}
background: {{model: u2netp}}
"""


@dataclass
class Account:
    """What happened: tasks asked for, and for each phase those made and when the first was."""

    asked: int = 0
    made: dict[str, int] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def note(self, phase: str) -> None:
        self.made[phase] = self.made.get(phase, 0) + 1
        self.first.setdefault(phase, time.monotonic())


class Miner:
    """Phases, scheduler and loader of a miner."""

    def __init__(self, folder: Path, checkpoints: dict[str, Path], steps: int, device: str) -> None:
        self.account = Account()
        self.progress = asyncio.Event()
        self.scheduler = Scheduler()
        config = folder / "miner.yaml"
        (folder / "phases").mkdir()
        for name, checkpoint in checkpoints.items():
            (folder / "phases" / f"{name}.yaml").write_text(PHASE.format(checkpoint=checkpoint, steps=steps))
        self.state = StateFile(folder / "state")
        self.config = config
        settings = MinerSettings(phase="old", device=device)
        self.manager = PhaseManager(
            PhaseFiles(config, self.state),
            load_phase("old", config),
            lambda _: None,
            lambda phase: load(phase, settings, self.scheduler),
            release,
        )

    async def work(self, over: asyncio.Event) -> None:
        """Have tasks generated, one after the other."""
        while not over.is_set():
            self.account.asked += 1
            seed = self.account.asked
            choice, loaded = self.manager.selector.choice, self.manager.selector.models
            (phase,) = choice.phases
            structure, latents = phase.settings.samplers
            request = Request(parse_text_prompt("a red chair"), seed, structure, latents, VoxelLimit(12_000, "drop"))
            job = self.scheduler.submit(partial(_generate, loaded.backend, request), 1.0, time.monotonic() + 60)
            try:
                await asyncio.wrap_future(job)
            except Exception as error:  # whatever it is, the task is lost
                self.account.errors.append(f"{type(error).__name__}: {error}")
            else:
                self.account.note(phase.name)
            # As a task of the miner's does, it held on to the networks until it was done.
            del loaded
            self.progress.set()

    async def until(self, phase: str, count: int) -> None:
        """Wait until so many tasks were made by a phase."""
        while self.account.made.get(phase, 0) < count and not self.account.errors:
            self.progress.clear()
            await self.progress.wait()


def _generate(backend: Backend, request: Request, on_step: OnStep) -> None:
    # Random weights may leave every voxel empty, which is an answer, too.
    with suppress(EmptyStructure):
        backend.generate(request, on_step)


def allocated() -> float:
    """GiB that torch has given out."""
    return round(torch.cuda.memory_allocated() / GIB, 2) if torch.cuda.is_available() else 0.0


def peak() -> float:
    """GiB at most since the checkpoints were written."""
    return round(torch.cuda.max_memory_allocated() / GIB, 2) if torch.cuda.is_available() else 0.0


async def prove(miner: Miner) -> dict[str, object]:
    """Swap under load."""
    miner.scheduler.start()
    await miner.manager.start()
    watching = asyncio.create_task(miner.manager.run())
    over = asyncio.Event()
    workers = [asyncio.create_task(miner.work(over)) for _ in range(AT_ONCE)]
    await miner.until("old", AFTERWARDS)
    with_one = allocated()

    def apply(state: PhaseState | None) -> PhaseState:
        assert state is not None
        return state.apply(PhaseChoice.single(load_phase("new", miner.config)), "apply", "for the proof")

    started = time.monotonic()
    await asyncio.to_thread(miner.state.change, apply)
    await miner.until("new", AFTERWARDS)
    with_both = peak()
    over.set()
    await asyncio.gather(*workers)
    # Gives back what nothing refers to any more.
    await miner.manager.look(at_once=True)
    watching.cancel()
    account = miner.account
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "asked": account.asked,
        "made": account.made,
        "errors": account.errors,
        "seconds_to_the_first_task_of_the_new_phase": round(account.first.get("new", float("nan")) - started, 2),
        "gib_with_one": with_one,
        "gib_at_most": with_both,
        "gib_after_the_swap": allocated(),
        "as_health_has_it": [asdict(gpu) for gpu in read_gpu_memory()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="text-xlarge", help="size of the two, or the directory of one")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = {phase: folder / f"checkpoint-{phase}" for phase in ("old", "new")}
        for directory in checkpoints.values():
            if arguments.checkpoint in random_checkpoint.FLOWS:
                random_checkpoint.write(arguments.checkpoint, directory, torch.float16, device)
            else:
                directory.symlink_to(Path(arguments.checkpoint).resolve())
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        miner = Miner(folder, checkpoints, arguments.steps, device)
        try:
            result = asyncio.run(prove(miner))
        finally:
            miner.scheduler.stop(STOP_TIMEOUT)
    print(json.dumps(result))
    return 0 if not result["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
