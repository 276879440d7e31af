"""Measure the time of scoring one candidate, whole and by part.

    python -m scripts.benchmarks.scoring [--count 384000 ...] [--file object.spz] [--device cuda]

The networks have the published sizes and random weights; the object is a shell of gaussians as wide as a voxel, or that
of a file. Prints the median time, after two warm-ups, of a whole score for a sentence and for a picture, of each part
by itself on views that are drawn already, of the 16 views, of the sheet of a candidate, and of encoding and verifying
the SPZ that is scored; the time to encode each prompt, which happens once a task; and the peak of the GPU's memory. The
last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from pipeline import ImagePrompt, Prompt, ScorerSources, Splats, TextPrompt, ValidatorScorer, ply, recognise_format, spz
from pipeline.scoring.candidate_sheet import draw_candidate_sheet
from pipeline.scoring.views import render_validator_views
from pipeline.weights.random_init import write_alexnet, write_image_alignment, write_scorer, write_text_alignment
from scripts.benchmarks.timing import GIB, device_name, median_seconds

VOXEL = 1 / 64
PARTS = ("text", "image", "quality")


def egg_shell(count: int, device: torch.device) -> Splats:
    """Return gaussians half a voxel wide on the surface of an egg."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    splats = Splats(
        means=F.normalize(normal(3)) * torch.tensor([0.3, 0.45, 0.3]),
        quaternions=F.normalize(normal(4)),
        log_scales=torch.tensor(VOXEL / 2).log() + 0.3 * normal(3),
        opacity_logits=normal(),
        f_dc=normal(3),
    )
    return splats.to(device)


def read_splats(path: Path) -> Splats:
    """Read a PLY or SPZ file. Raises FormatError."""
    data = path.read_bytes()
    return ply.from_bytes(data) if recognise_format(data) == "ply" else spz.from_bytes(data)


PROMPTS: dict[str, Prompt] = {
    "text": TextPrompt("a highly detailed three dimensional model of a robot police officer with a hammer"),
    "image": ImagePrompt(Image.effect_noise((512, 512), 80).convert("RGB"), b"noise"),
}


def write_score_networks(folder: Path, device: torch.device) -> ScorerSources:
    """Write the networks of all parts with random weights of the published sizes, drawn on a device."""
    text, image, quality = (folder / name for name in PARTS)
    for directory in (text, image, quality):
        directory.mkdir()
    write_scorer(quality)
    write_text_alignment(text, str(device))
    write_image_alignment(image, str(device))
    alexnet = write_alexnet(folder)
    return ScorerSources(("quality", "alignment", "similarity"), *map(str, (quality, text, image, alexnet)))


def load_scorer(device: torch.device) -> ValidatorScorer:
    """Load all parts with random weights of the published sizes."""
    with tempfile.TemporaryDirectory() as folder:
        sources = write_score_networks(Path(folder), device)
        scorer = ValidatorScorer.load(sources, device, text=True, image=True)
    if scorer.missing:
        raise SystemExit("; ".join(scorer.missing))
    return scorer


def measure(scorer: ValidatorScorer, splats: Splats, repeats: int) -> dict[str, Any]:
    """Return the figures for an object."""
    device = scorer.device
    views = render_validator_views(splats)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    quality, text, image, similarity = (
        scorer.quality, scorer.text_alignment, scorer.image_alignment, scorer.similarity
    )  # fmt: skip
    assert quality and text and image and similarity, "load_scorer has loaded all"
    sentence, picture = PROMPTS["text"], PROMPTS["image"]
    assert isinstance(sentence, TextPrompt) and isinstance(picture, ImagePrompt)
    text_prompt, image_prompt = text.encode(sentence.text), image.encode(picture.image)
    score_sentence, score_picture = scorer.for_prompt(sentence), scorer.for_prompt(picture)
    works: dict[str, Callable[[], object]] = {
        "score_of_sentence": lambda: score_sentence(splats),
        "score_of_picture": lambda: score_picture(splats),
        "views": lambda: render_validator_views(splats),
        "quality": lambda: quality.measure(views),
        "text_alignment": lambda: text.measure(views, text_prompt),
        "image_alignment": lambda: image.measure(views, image_prompt),
        "ssim": lambda: similarity.pair_similarities(views),
        "lpips": lambda: similarity.pair_distances(views),
        "candidate_sheet": lambda: draw_candidate_sheet(views),
        "encode_sentence": lambda: text.encode(sentence.text),
        "encode_picture": lambda: image.encode(picture.image),
        "spz": lambda: spz.verify_round_trip(splats, spz.to_bytes(splats)),
    }
    seconds = {name: round(median_seconds(work, repeats), 5) for name, work in works.items()}
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    return {"gaussians": len(splats), "seconds": seconds, "peak_gib": round(peak, 2)}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="*", default=[384_000])
    parser.add_argument("--file", type=Path, nargs="*", default=[], help=".spz or .ply, +y up")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    scorer = load_scorer(device)
    scorer.warm_up()
    memory = torch.cuda.memory_allocated() / GIB if device.type == "cuda" else 0.0
    objects = {f"shell of {count}": egg_shell(count, device) for count in arguments.count}
    for path in arguments.file:
        objects[path.name] = read_splats(path).to(device)
    results = {}
    for name, splats in objects.items():
        results[name] = measure(scorer, splats, arguments.repeats)
        milliseconds = (f"{part} {1000 * value:.1f}" for part, value in results[name]["seconds"].items())
        print(f"{name}: {', '.join(milliseconds)} ms; peak {results[name]['peak_gib']} GiB", flush=True)
    figures = {"device": device_name(device), "torch": torch.__version__, "networks_gib": round(memory, 2)}
    print(json.dumps(figures | {"results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
