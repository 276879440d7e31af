"""Objects that were never trained on, as prompts, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pipeline import SamplerParams
from scripts.train_tiny.distances import Objects
from scripts.train_tiny.measures import Measures, matched, measure, true_views, views
from scripts.train_tiny.objects import make_thing
from scripts.train_tiny.pictures import pictures
from scripts.train_tiny.pool import HELD_OUT
from scripts.train_tiny.subject import Prompt, Subject
from scripts.train_tiny.voxels import occupancy

PROMPT_SIZE = 512
MATCHED_AMONG = 20


@dataclass(frozen=True, eq=False)
class Question:
    """An object: its prompt, the seed of the noise, its voxels [64, 64, 64] bool and its true views [2, 4, S, S]."""

    prompt: Prompt
    seed: int
    occupied: Tensor
    views: Tensor


@torch.inference_mode()
def questions(first: int, count: int, device: torch.device, *, sentences: bool) -> list[Question]:
    """The held-out objects from number `first` on, as pictures with alpha or as their captions."""
    found = []
    for number in range(first, first + count):
        thing = make_thing(HELD_OUT + number)
        alone = Objects.of([thing.parts], device)
        prompt: Prompt = thing.caption
        if not sentences:
            rgba = (pictures(alone, PROMPT_SIZE)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            prompt = Image.fromarray(rgba, "RGBA")
        found.append(Question(prompt, number, occupancy(alone)[0], true_views(alone)))
    return found


@dataclass(frozen=True)
class Result:
    """Measures of each object, and the share of results matched to their own prompt among 20; NaN below 20."""

    measures: list[Measures]
    matched: float


def examine(
    subject: Subject, asked: list[Question], structure: SamplerParams, latents: SamplerParams, batch: int
) -> Result:
    """Generate all objects, so many at a time, and compare."""
    measures, ours = [], []
    for part in _split(asked, batch):
        tokens, seeds = subject.tokens([question.prompt for question in part]), [question.seed for question in part]
        logits = subject.structures(tokens, seeds, structure)
        for question, logit, splats in zip(part, logits, subject.splats(tokens, seeds, logits, latents), strict=True):
            seen = torch.zeros_like(question.views) if splats is None else views(splats)
            measures.append(measure(logit[0] > 0, question.occupied, seen, question.views))
            ours.append(seen[0])
    true = [question.views[0] for question in asked]
    shares = [
        matched(torch.stack(ours[start : start + MATCHED_AMONG]), torch.stack(true[start : start + MATCHED_AMONG]))
        for start in range(0, len(asked) - MATCHED_AMONG + 1, MATCHED_AMONG)
    ]
    return Result(measures, sum(shares) / len(shares) if shares else float("nan"))


def _split(asked: list[Question], batch: int) -> Iterator[list[Question]]:
    for start in range(0, len(asked), batch):
        yield asked[start : start + batch]
