"""Count the scored candidates that one GPU and several make in 25 seconds, through the miner's own pool of workers.

    python -m scripts.validation.workers [--devices cuda:0,cuda:1] [--voxels 12000] [--seconds 25] [--whole-score]

The phase is phase3 with a text checkpoint of the published size and random weights, the quality scorer or all parts of
the score likewise, and `max_voxels` to drop what exceeds the number of voxels. First the first device works alone in
this process, as a miner with one GPU does, then a process each drives all devices. In each round, one task asks for
candidates until its deadline; those that are done by then count. Prints the seconds of a candidate and the share of
what as many times one GPU would make; the last line is JSON. Needs neither bittensor nor rembg.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from miner.config import MinerSettings, shipped_config
from miner.config.choice_sections import CandidateSettings, ScorerSettings
from miner.config.phase_files import NamedPhase, load_phase
from miner.config.phase_sections import TextCheckpointSettings, VoxelSettings
from miner.gpu import GenerationOrder, WorkerPool, build_workers
from miner.tasks import best_of_n, make_container, make_request
from pipeline import BestResult, GenerationJob, parse_text_prompt
from pipeline.weights import random_init
from scripts.benchmarks.scoring import write_score_networks
from scripts.benchmarks.timing import device_name

WORKER_TIMEOUT = 30.0


def make_phase(checkpoint: Path, scorer: ScorerSettings, voxels: int, seconds: float) -> NamedPhase:
    """Return phase3 with the checkpoint for sentences alone, and candidates for so many seconds."""
    changes = {
        "image": None,
        "text": TextCheckpointSettings(checkpoint=str(checkpoint)),
        "scorer": scorer,
        "max_voxels": VoxelSettings(count=voxels, excess="drop"),
        "candidates": CandidateSettings(count=1000, seconds=seconds),
    }
    phase = load_phase("phase3", shipped_config() / "miner.yaml").settings
    return NamedPhase("random", phase.model_copy(update=changes))


async def run_round(pool: WorkerPool, models: Any, phase: NamedPhase, seconds: float, number: int) -> BestResult:
    """Have one task's candidates made within so many seconds from now."""
    settings = phase.settings
    request = make_request(parse_text_prompt("a red chair"), 1000 * number, settings)
    container = make_container("spz", "y", MinerSettings(phase="random").spz, settings)
    job = GenerationJob(f"round {number}", request, container)
    deadline = asyncio.get_running_loop().time() + seconds
    choice = best_of_n(request, settings, models.can_score, deadline)
    return await pool.run(GenerationOrder(job, models, "random", 1.0), choice)


async def measure(settings: MinerSettings, phase: NamedPhase, seconds: float, rounds: int) -> dict[str, Any]:
    """Return what the workers of these settings make in each round; the first, in which they learn, is left out."""
    pool = WorkerPool(build_workers(settings))
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        models = await pool.load(phase)
        load_seconds = loop.time() - began
        results = [await run_round(pool, models, phase, seconds, number) for number in range(rounds + 1)][1:]
        statuses = pool.statuses
    finally:
        await pool.stop(WORKER_TIMEOUT)
    candidates = [[candidate for candidate in best.candidates if candidate.score] for best in results]
    each = [candidate.seconds for one in candidates for candidate in one]
    return {
        "devices": [status.device for status in statuses],
        "candidates": [len(one) for one in candidates],
        "by_worker": [status.candidates for status in statuses],
        "mean_seconds": round(sum(each) / len(each), 3),
        "voxels": results[0].asset.voxels,
        "load_seconds": round(load_seconds, 1),
        "losses": [status.last_loss for status in statuses if status.last_loss],
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ",".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    parser.add_argument("--devices", default=every, help="two or more, with commas between them; default: all GPUs")
    parser.add_argument("--checkpoint", default="text-xlarge", choices=["text-xlarge", "embedded-text"])
    parser.add_argument("--whole-score", action="store_true", help="compute all parts of the score")
    parser.add_argument("--voxels", type=int, default=12_000)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    devices = arguments.devices.split(",")
    if len(devices) < 2:
        print("this validation needs two devices: name them with --devices", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sources = write_score_networks(Path(folder), torch.device(devices[0]))
        scorer = ScorerSettings(
            parts=sources.parts if arguments.whole_score else ("quality",), weights=sources.quality,
            text_alignment=sources.text_alignment, image_alignment=sources.image_alignment, lpips=sources.lpips,
        )  # fmt: skip
        checkpoint = Path(folder) / "checkpoint"
        if arguments.checkpoint != "embedded-text":
            random_init.write_checkpoint(arguments.checkpoint, checkpoint, devices[0])
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        else:
            checkpoint = Path("embedded-text")
        phase = make_phase(checkpoint, scorer, arguments.voxels, arguments.seconds)
        run = partial(measure, phase=phase, seconds=arguments.seconds, rounds=arguments.rounds)
        base = MinerSettings(phase="random")
        several = base.model_copy(update={"workers": base.workers.model_copy(update={"devices": tuple(devices)})})
        alone = base.model_copy(update={"device": devices[0]})
        results = {"one": asyncio.run(run(alone)), "several": asyncio.run(run(several))}
    ratio = sum(results["several"]["candidates"]) / max(sum(results["one"]["candidates"]), 1)
    for name, result in results.items():
        print(f"{name}: {result['candidates']} candidates in {arguments.seconds:g} s, {result['mean_seconds']} s each")
    print(f"{len(devices)} devices make {ratio:.2f} times the candidates of one")
    device = device_name(torch.device(devices[0]))
    summary = {"device": device, "torch": torch.__version__, "seconds": arguments.seconds, "ratio": round(ratio, 3)}
    print(json.dumps(summary | results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
