"""Simulate how many candidates a task gets from 1, 4, 16 and 64 GPUs, and what limits that.

    python -m scripts.validation.scaling [--validators 27] [--minutes 30] [--uplink 100] [--cpu-ms 18]

The miner's own pool serves simulated workers in virtual time. A candidate takes 1.6 s, its score 0.08 s and its way
through Ray 0.03 s, each time up to a quarter more or less; a validator gives a task every 300 s, and wants the result
within 30 s, of which 5 s go to the validation and the upload. Results of 6 MB travel from the nodes to the miner, and
the chosen ones, a third larger in base64, on to the validators. `--uplink` is that to the validators in Mbit/s, and
`--cpu-ms` the milliseconds of the miner's CPU for one result, see ray_overhead.md; what the pool itself takes is
measured here. The last line is JSON. Recorded results: scaling.md beside this file.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass

from miner.config import shipped_config
from miner.config.phase_files import load_phase
from miner.gpu import GenerationOrder, PhaseModels, WorkerPool
from pipeline import BestOfN, GenerationJob, Request, SamplerParams, TextPrompt
from scripts.validation.simulated_network import VirtualTimeLoop
from scripts.validation.simulated_workers import MODELS, SimulatedWorker

GPUS = (1, 4, 16, 64)
CANDIDATE_SECONDS, SCORE_SECONDS, RAY_SECONDS = 1.6, 0.08, 0.03
SPREAD = 1.25
COOLDOWN, WINDOW, OVERHEAD = 300.0, 30.0, 5.0
RESULT_BITS, BASE64 = 6e6 * 8, 4 / 3
PARAMS = SamplerParams(steps=1, cfg_strength=0.0)
MODEL_SET = PhaseModels(MODELS, load_phase("demo", shipped_config() / "miner.yaml").settings.models_key, can_score=True)
# As many as a phase may ask for.
MOST = 1000


@dataclass(frozen=True)
class Scale:
    """What so many GPUs make.

    tasks_an_hour: results that leave. in_time: the share of them within the window. candidates: the median of a task.
    busy: the share of the GPUs' time. node_mbits: results on their way to the miner, while all GPUs work. uplink:
    the share of the uplink that the chosen ones take. cpu: the miner's cores while all GPUs work.
    """

    gpus: int
    tasks_an_hour: float
    in_time: float
    candidates: float
    busy: float
    node_mbits: float
    uplink: float
    cpu: float


async def mine(gpus: int, validators: int, seconds: float) -> tuple[list[int], list[float], float]:
    """Return the candidates and the seconds of each task, and the seconds that all workers together were busy."""
    rng = random.Random(gpus)  # noqa: S311 - no secret
    now = asyncio.get_running_loop().time
    busy = 0.0

    def draw_seconds() -> float:
        nonlocal busy
        drawn = (CANDIDATE_SECONDS + SCORE_SECONDS) * SPREAD ** rng.uniform(-1, 1)
        busy += drawn
        return drawn + (RAY_SECONDS if gpus > 1 else 0.0)

    pool = WorkerPool([SimulatedWorker(f"ray:{number}", draw_seconds, rng.random) for number in range(gpus)])
    counts: list[int] = []
    took: list[float] = []

    async def give_tasks(number: int) -> None:
        await asyncio.sleep(rng.uniform(0, COOLDOWN))
        task = 0
        while now() < seconds:
            task += 1
            began = now()
            request = Request(TextPrompt("x"), number, PARAMS, PARAMS)
            order = GenerationOrder(GenerationJob(f"{number}-{task}", request), MODEL_SET, "kind", 1000.0 + number)
            best = await pool.run(order, BestOfN(request, MOST, deadline=began + WINDOW - OVERHEAD))
            counts.append(len(best.candidates))
            took.append(now() - began + OVERHEAD)
            await asyncio.sleep(COOLDOWN - (now() - began) + max(took[-1] - WINDOW, 0.0))

    await asyncio.gather(*(give_tasks(number) for number in range(validators)))
    return counts, took, busy


def simulate(gpus: int, validators: int, seconds: float, uplink_mbits: float, cpu_ms: float) -> Scale:
    """Return what so many GPUs make, and what that takes of everything else."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        began = time.process_time()
        counts, took, busy = runner.run(mine(gpus, validators, seconds))
        pool_seconds = (time.process_time() - began) / sum(counts)
    rate = gpus / (CANDIDATE_SECONDS + SCORE_SECONDS + RAY_SECONDS)
    tasks = len(counts) / seconds
    return Scale(
        gpus=gpus,
        tasks_an_hour=3600 * tasks,
        in_time=sum(one <= WINDOW + 0.1 for one in took) / len(took),
        candidates=statistics.median(counts),
        busy=busy / (gpus * seconds),
        node_mbits=rate * RESULT_BITS / 1e6,
        uplink=tasks * RESULT_BITS * BASE64 / (uplink_mbits * 1e6),
        cpu=rate * (cpu_ms / 1e3 + pool_seconds),
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validators", type=int, default=27)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--uplink", type=float, default=100.0)
    parser.add_argument("--cpu-ms", type=float, default=18.0)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    scales = [simulate(gpus, arguments.validators, seconds, arguments.uplink, arguments.cpu_ms) for gpus in GPUS]
    print(
        "| GPUs | tasks/h | in time | candidates a task | GPUs busy | from nodes, Mbit/s | uplink | the miner's cores |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for scale in scales:
        print(
            f"| {scale.gpus} | {scale.tasks_an_hour:.0f} | {100 * scale.in_time:.0f} % | {scale.candidates:.0f} "
            f"| {100 * scale.busy:.0f} % | {scale.node_mbits:.0f} | {100 * scale.uplink:.0f} % | {scale.cpu:.2f} |"
        )
    print(json.dumps({"validators": arguments.validators, "scales": [asdict(scale) for scale in scales]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
