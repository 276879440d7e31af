"""How many candidates the miner's own worker finishes in a validator's window, packed and scored, and their energy."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from miner.config import shipped_config
from miner.config.phase_files import load_phase
from miner.gpu import LoadedModels, LocalWorker
from pipeline import (
    STAGES,
    Asset,
    Attempt,
    Conditioning,
    Container,
    GenerationJob,
    OnStep,
    Prompt,
    Request,
    ValidatorScorer,
)
from pipeline.request import Backend, ignore_steps
from pipeline.scoring.best_of_n import candidate_seed
from scripts.benchmarks.power import with_mean_power
from scripts.benchmarks.scoring import PROMPTS
from scripts.benchmarks.workload import GenerationWorkload

SECONDS = 25.0


@dataclass(frozen=True, eq=False)
class ShellBackend(Backend):
    """Runs all stages of a workload for each candidate; the splats are those of its shell of voxels."""

    workload: GenerationWorkload
    supports_image = supports_text = True

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return that there are no previews."""
        del prompt
        return False

    def warm_up_steps(self) -> Iterator[None]:
        """Do nothing: the workload is warm."""
        return iter(())

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        """Return no conditions, which the workload has."""
        del prompt
        return Conditioning(None, {})

    def sample(self, conditioning: Conditioning[None], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Run all stages after conditioning."""
        del conditioning, on_step
        with torch.inference_mode():
            splats = self.workload.make_splats(self.workload.grid)
        return Asset(splats, request.seed, len(self.workload.grid), dict.fromkeys(STAGES, 0.0))


def measure_candidates(workload: GenerationWorkload, scorer: ValidatorScorer | None, phase: str) -> dict[str, float]:
    """Return how many candidates are finished within SECONDS, and the seconds and joules of each.

    They are packed as PLY, or as SPZ and scored if there is a scorer, by the worker that the miner has.
    """
    free, device = threading.Event(), workload.engine.device
    worker = LocalWorker(f"cuda:{device.index or 0}", lambda _: LoadedModels(ShellBackend(workload), scorer))
    worker.load("shell", load_phase(phase, shipped_config() / "miner.yaml")).result()
    worker.listen(free.set)
    request = Request(PROMPTS["image"], 0, workload.structure_params, workload.latent_params)
    job = GenerationJob("benchmark", request, Container("ply" if scorer is None else "spz"))

    def make_for(seconds: float) -> list[float]:
        """Return when each candidate was finished, in seconds since the first was begun; the last ones are too late."""
        finished: list[float] = []
        ended = threading.Semaphore(0)
        start, begun = time.perf_counter(), 0

        def note(_: object) -> None:
            finished.append(time.perf_counter() - start)
            ended.release()

        while not finished or finished[-1] <= seconds:
            free.clear()
            if not worker.is_free:
                free.wait()
                continue
            worker.make("shell", job, Attempt(candidate_seed(0, begun))).add_done_callback(note)
            begun += 1
        # What is still being packed or scored would take part in the next count.
        for _ in range(begun):
            ended.acquire()
        return finished

    make_for(0.0)
    finished, watts = with_mean_power(lambda: make_for(SECONDS), device)
    worker.stop(SECONDS)
    seconds_each = finished[-1] / len(finished)
    return {
        "count": sum(moment <= SECONDS for moment in finished),
        "seconds_each": round(seconds_each, 4),
        "joules_each": round(watts * seconds_each),
        "watts": round(watts),
    }
