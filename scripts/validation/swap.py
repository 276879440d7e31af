"""Swap one checkpoint for another while tasks are generated.

    python -m scripts.validation.swap

Two checkpoints of text-xlarge's size with random weights run in the miner's own worker and phase manager,
with two tasks waiting at any time; there is no network and no background model. Prints the number of tasks that each
checkpoint generated, the time from the changed state to the first task of the new phase, the longest time that a task
took, and the GPU memory: with one checkpoint, with both, and after the last task of the old one, also as /health tells
it. Needs neither bittensor nor rembg. Exits with 1 if a task was lost. Recorded results: swap.md beside this file.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from miner.config import MinerSettings
from miner.config.phase_files import load_phase
from miner.gpu import GenerationOrder, WorkerPool, build_workers
from miner.phases import ModelOwner, PhaseChoice, PhaseFiles, PhaseManager, PhaseState, StateFile
from miner.runtime.gpu_memory import read_gpu_memory
from pipeline import BestOfN, EmptyStructure, GenerationJob, Request, VoxelLimit, parse_text_prompt
from pipeline.weights import random_init
from scripts.benchmarks.timing import GIB, device_name

CONCURRENT_TASKS = 2
# Of each task, in seconds, as pulled ones have it.
DEADLINE = 25.0
# After the last task, until the worker has returned the memory of the old phase.
FREEING_SECONDS = 2.0
# Tasks of each phase that are waited for.
TASKS = 4
PHASE = """
text: {{checkpoint: {checkpoint}}}
sparse_structure_sampler_params: {{steps: 12, cfg_strength: 7.5, cfg_interval: [0.5, 1.0], rescale_t: 3.0}}
slat_sampler_params: {{steps: 12, cfg_strength: 3.0, cfg_interval: [0.5, 1.0], rescale_t: 3.0}}
background: {{model: u2netp}}
"""


@dataclass
class PhaseSwap:
    """The phases "old" and "new" with the miner's worker and phase manager; counts the tasks of each."""

    config: Path
    state: StateFile
    pool: WorkerPool
    manager: PhaseManager
    submitted: int = 0
    generated: Counter[str] = field(default_factory=Counter)
    first_generated: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    longest: float = 0.0
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    @staticmethod
    async def open(folder: Path, checkpoints: dict[str, Path], device: str) -> "PhaseSwap":
        """Write the phases below the folder, one for each checkpoint, and load the old one."""
        config, state = folder / "miner.yaml", StateFile(folder / "state")
        (folder / "phases").mkdir()
        for name, checkpoint in checkpoints.items():
            (folder / "phases" / f"{name}.yaml").write_text(PHASE.format(checkpoint=checkpoint))
        pool = WorkerPool(build_workers(MinerSettings(phase="old", device=device)))
        owner = ModelOwner(check_allowed=lambda _: None, load=pool.load, unload=pool.unload)
        manager = await PhaseManager.open(PhaseFiles(config, state), load_phase("old", config), owner)
        return PhaseSwap(config, state, pool, manager)

    async def run(self) -> dict[str, object]:
        """Swap under load; return what was measured."""
        manager = asyncio.create_task(self.manager.run())
        stopping = asyncio.Event()
        workers = [asyncio.create_task(self._generate_until(stopping)) for _ in range(CONCURRENT_TASKS)]
        await self._wait_for("old")
        with_one = torch.cuda.memory_allocated()

        def apply(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return state.apply(PhaseChoice.single(load_phase("new", self.config)), "apply", "for the validation")

        started = time.monotonic()
        await asyncio.to_thread(self.state.change, apply)
        await self._wait_for("new")
        with_both = torch.cuda.max_memory_allocated()
        stopping.set()
        await asyncio.gather(*workers)
        # Has the memory of the old phase freed, which is done before the worker ends.
        await self.manager.poll(at_once=True)
        await asyncio.sleep(FREEING_SECONDS)
        manager.cancel()
        await self.pool.stop(DEADLINE)
        swap_seconds = self.first_generated.get("new", float("nan")) - started
        return {
            "asked": self.submitted, "made": self.generated, "errors": self.errors,
            "longest_seconds_of_a_task": round(self.longest, 2),
            "seconds_to_the_first_task_of_the_new_phase": round(swap_seconds, 2),
            "gib_with_one": round(with_one / GIB, 2), "gib_at_most": round(with_both / GIB, 2),
            "gib_after_the_swap": round(torch.cuda.memory_allocated() / GIB, 2),
            "as_health_has_it": [asdict(gpu) for gpu in read_gpu_memory()],
        }  # fmt: skip

    async def _generate_until(self, stopping: asyncio.Event) -> None:
        """Generate tasks one after the other."""
        while not stopping.is_set():
            self.submitted += 1
            models, (phase,) = self.manager.selector.models, self.manager.selector.choice.phases
            prompt, limit = parse_text_prompt("a red chair"), VoxelLimit(12_000, "drop")
            request = Request(prompt, self.submitted, *phase.settings.samplers, limit)
            started = time.monotonic()
            job = GenerationJob(str(self.submitted), request)
            choice = BestOfN(request, deadline=started + DEADLINE)
            try:
                await self.pool.run(GenerationOrder(job, models, phase.name, 1.0), choice)
            except EmptyStructure:
                # Random weights may leave every voxel empty, which counts as generated.
                self._count(phase.name, started)
            except Exception as error:  # whatever it is, the task is lost
                self.errors.append(f"{type(error).__name__}: {error}")
            else:
                self._count(phase.name, started)
            # Like a task of the miner's, it refers to the models until it is done and no longer.
            del models
            self.progress.set()

    def _count(self, phase: str, started: float) -> None:
        self.generated[phase] += 1
        self.longest = max(self.longest, time.monotonic() - started)
        self.first_generated.setdefault(phase, time.monotonic())

    async def _wait_for(self, phase: str) -> None:
        """Wait until TASKS tasks of a phase are generated, or one failed."""
        while self.generated[phase] < TASKS and not self.errors:
            self.progress.clear()
            await self.progress.wait()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = {phase: folder / f"checkpoint-{phase}" for phase in ("old", "new")}
        for directory in checkpoints.values():
            random_init.write_checkpoint("text-xlarge", directory, device)
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with asyncio.Runner() as runner:
            swap = runner.run(PhaseSwap.open(folder, checkpoints, device))
            result = runner.run(swap.run())
    print(json.dumps({"device": device_name(torch.device(device)), "torch": torch.__version__} | result))
    return 1 if swap.errors else 0


if __name__ == "__main__":
    sys.exit(main())
