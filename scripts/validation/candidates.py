"""Compare ways to spend the same time on candidates, on the embedded checkpoint under the local validator's score.

    python -m scripts.validation.candidates --prompts 200 --table table.npz
    python -m scripts.validation.candidates --table table.npz --seconds 0.942 0.595 0.014 0.08

For each held-out object, structures are sampled from its picture, and latents several times on each. The miner sees a
result from the prompt's own camera alone, and chooses by that; the validator also sees it from behind. Policies are
then played on the table of both scores, with the seconds that each stage takes at full size, and compared prompt by
prompt with independent candidates of the same time. Recorded results: candidates.md beside this file.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import SamplerParams, flip_up_axis
from pipeline.params import Conditions
from pipeline.sampling.euler import euler_steps, schedule
from pipeline.scoring.similarity import Similarity, compare_views, render_rgba
from pipeline.trellis import VoxelGrid
from pipeline.trellis.structure_decoder import occupied_voxels
from scripts.benchmarks.timing import device_name
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny.eval.metrics import view_cameras
from scripts.train_tiny.eval.samples import encode, load_model, make_samples

STRUCTURES, LATENTS = 6, 5
# Steps of the latents that are sampled to see what a structure promises.
PREVIEW_STEPS = 3
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What each result of P prompts, S structures of each, and L latents on each structure is worth.

    final: the validator's score, [P, S, L]; seen: what the miner sees of it; half: what it sees of the first latents
    after half of their steps, [P, S]; preview: what it sees of latents in PREVIEW_STEPS steps, [P, S]. Those of one
    prompt lack the first dimension.
    """

    final: Floats
    seen: Floats
    half: Floats
    preview: Floats

    def best(self, made: list[tuple[int, int]]) -> float:
        """Return the validator's score of the result of one prompt that looks best to the miner."""
        return float(self.final[max(made, key=lambda place: float(self.seen[place]))])


@dataclass(frozen=True)
class Costs:
    """Seconds of a structure with its decoding, of latents, of decoding them to splats, and of a score."""

    structure: float
    latents: float
    decoding: float
    score: float

    @property
    def look(self) -> float:
        """Seconds to decode latents and score them."""
        return self.decoding + self.score

    @property
    def candidate(self) -> float:
        """Seconds of a whole candidate."""
        return self.structure + self.latents + self.look


class Budget:
    """Time that is left for one task."""

    def __init__(self, seconds: float) -> None:
        """Begin with all of it."""
        self.left = seconds

    def spend(self, seconds: float) -> bool:
        """Spend time if there is as much; return whether there was."""
        # Sums of the same terms in another order differ in their last digits.
        if seconds > self.left + 1e-9:
            return False
        self.left -= seconds
        return True


Policy = Callable[[Scores, Costs, Budget], list[tuple[int, int]]]


def independent(prompt: Scores, costs: Costs, budget: Budget) -> list[tuple[int, int]]:
    """Make a structure and latents for every candidate."""
    made = []
    for structure in range(len(prompt.final)):
        if not budget.spend(costs.candidate):
            break
        made.append((structure, 0))
    return made


def resample(structures: int) -> Policy:
    """Return the policy that makes so many candidates, then further latents on the structure of the best."""

    def play(prompt: Scores, costs: Costs, budget: Budget) -> list[tuple[int, int]]:
        made = []
        for structure in range(structures):
            if budget.spend(costs.candidate):
                made.append((structure, 0))
        best, _ = max(made, key=lambda place: float(prompt.seen[place]))
        for latents in range(1, prompt.final.shape[1]):
            if not budget.spend(costs.latents + costs.look):
                break
            made.append((best, latents))
        return made

    return play


def drop_half_way(prompt: Scores, costs: Costs, budget: Budget) -> list[tuple[int, int]]:
    """Look at every candidate after half of its latents, and finish those that look better than the best did then."""
    made: list[tuple[int, int]] = []
    best = -np.inf
    for structure in range(len(prompt.final)):
        if not budget.spend(costs.structure + costs.latents / 2 + costs.look):
            break
        if prompt.half[structure] > best and budget.spend(costs.latents / 2 + costs.look):
            best = prompt.half[structure]
            made.append((structure, 0))
    return made


def preview(structures: int, kept: int = 1) -> Policy:
    """Return the policy that tries so many structures with few steps of latents, and finishes the most promising."""

    def play(prompt: Scores, costs: Costs, budget: Budget) -> list[tuple[int, int]]:
        tried = []
        finish = costs.latents + costs.look
        for structure in range(structures):
            attempt = costs.structure + costs.latents * PREVIEW_STEPS / 35 + costs.look
            if budget.left < attempt + finish or not budget.spend(attempt):
                break
            tried.append(structure)
        made = []
        for structure in sorted(tried, key=lambda place: -float(prompt.preview[place]))[:kept]:
            if budget.spend(finish):
                made.append((structure, 0))
        best = made[0][0]
        for latents in range(1, prompt.final.shape[1]):
            if not budget.spend(finish):
                break
            made.append((best, latents))
        return made

    return play


POLICIES: Mapping[str, Policy] = {
    "independent": independent,
    **{f"resample after {count}": resample(count) for count in (1, 2, 3)},
    "drop half way": drop_half_way,
    **{f"preview {count}": preview(count) for count in (2, 4, 6)},
    "preview 6, finish 2": preview(6, 2),
}


def compare(scores: Scores, costs: Costs, candidates: int) -> dict[str, tuple[float, float, float]]:
    """Return each policy's mean score, its difference from independent candidates, and half the 95 % interval of that.

    candidates: the number of whole ones whose time every policy has; those who could make none score 0.
    """
    results = {}
    for name, policy in POLICIES.items():
        values = []
        for arrays in zip(scores.final, scores.seen, scores.half, scores.preview, strict=True):
            prompt = Scores(*arrays)
            made = policy(prompt, costs, Budget(candidates * costs.candidate))
            values.append(prompt.best(made) if made else 0.0)
        results[name] = np.array(values)
    baseline = results["independent"]
    return {name: (float(v.mean()), *_mean_with_interval(v - baseline)) for name, v in results.items()}


def _mean_with_interval(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


class Table:
    """Makes the scores of Scores for one object after another."""

    def __init__(self, model: LoadedCheckpoint, structures: int, latents: int) -> None:
        """Use the checkpoint's own sampler settings."""
        self.model = model
        self.size = (structures, latents)
        checkpoint = model.engine.checkpoint
        self.structure, self.latents = checkpoint.sparse_structure_sampler_params, checkpoint.slat_sampler_params

    @torch.inference_mode()
    def make(self, first: int, prompts: int) -> Scores:
        """Generate everything for held-out objects."""
        samples = make_samples(first, prompts, self.model.engine.device, text=False)
        rows = [self._prompt(encode(self.model, s.prompt), s.views, s.seed) for s in samples]
        return Scores(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))

    def _prompt(self, conditions: Conditions, reference: Tensor, seed: int) -> tuple[Floats, Floats, Floats, Floats]:
        engine = self.model.engine
        structures, latents = self.size
        final, seen = np.zeros(self.size), np.zeros(self.size)
        half, previews = np.zeros(structures), np.zeros(structures)
        for i in range(structures):
            source = torch.Generator().manual_seed(1000 * seed + i)
            noise = torch.randn(1, *engine.structure_shape, generator=source)
            logits = engine.decode_structure(engine.sample_structure(conditions, self.structure, noise))
            if not bool((logits > 0).any()):
                continue
            grid = VoxelGrid(occupied_voxels(logits))
            few = replace(self.latents, steps=PREVIEW_STEPS)
            for j in range(latents):
                noise = torch.randn(len(grid), engine.latent_channels, generator=source)
                middle, sample = self._sample(conditions, grid, noise, self.latents)
                final[i, j], seen[i, j] = self._look(sample, grid, reference)
                if j == 0:
                    half[i] = self._look(middle, grid, reference)[1]
                    previews[i] = self._look(self._sample(conditions, grid, noise, few)[1], grid, reference)[1]
        return final, seen, half, previews

    def _sample(
        self, conditions: Conditions, grid: VoxelGrid, noise: Tensor, params: SamplerParams
    ) -> tuple[Tensor, Tensor]:
        """Return the latents as they are expected after half of the steps, and as they are in the end."""
        engine = self.model.engine
        velocities = engine.flows.prepare_latents(schedule(params.steps, params.rescale_t), conditions, grid)
        steps = list(euler_steps(velocities, noise.to(engine.device), conditions, params))
        half_way = steps[len(steps) // 2]
        expected = half_way.x - half_way.t * half_way.velocity
        checkpoint = engine.checkpoint
        middle, end = (x * checkpoint.latent_std + checkpoint.latent_mean for x in (expected, steps[-1].x_next))
        return middle, end

    def _look(self, latents: Tensor, grid: VoxelGrid, reference: Tensor) -> tuple[float, float]:
        """Return the validator's score of latents, and what the miner sees of it."""
        splats = flip_up_axis(self.model.engine.decode_latents(latents, grid))
        similarity = compare_views(render_rgba(splats, view_cameras()), reference)
        front = Similarity(similarity.silhouettes[:1], similarity.colour_error)
        return similarity.score, front.score


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, help="make a table of so many prompts, and write it to the first file")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them among held-out objects")
    parser.add_argument("--table", type=Path, nargs="+", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--seconds", type=float, nargs=4, default=(0.942, 0.595, 0.014, 0.08),
        metavar=("STRUCTURE", "LATENTS", "DECODING", "SCORE"),
    )  # fmt: skip
    arguments = parser.parse_args()
    made: dict[str, Any] = {}
    if arguments.prompts:
        model = load_model("embedded", arguments.device)
        started = time.monotonic()
        scores = Table(model, STRUCTURES, LATENTS).make(arguments.first, arguments.prompts)
        np.savez_compressed(arguments.table[0], **vars(scores))
        made = {"seconds": round(time.monotonic() - started), "device": device_name(model.engine.device)}
    files = [np.load(path) for path in arguments.table]
    scores = Scores(**{name: np.concatenate([file[name] for file in files]) for name in files[0].files})
    costs = Costs(*arguments.seconds)
    results = {}
    for candidates in (2, 3, 4, 6):
        results[candidates] = compare(scores, costs, candidates)
        print(f"in the time of {candidates} candidates, {candidates * costs.candidate:.1f} s:")
        for name, (mean, difference, half) in results[candidates].items():
            print(f"  {name:20} {mean:.4f}  {difference:+.4f} ± {half:.4f}")
    print(json.dumps({"prompts": len(scores.final), "costs": vars(costs), "results": results} | made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
