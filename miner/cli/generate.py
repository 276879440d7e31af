"""Generate one object from a picture, several pictures of it, or a sentence, without a network.

    python scripts/generate.py chair.png -o chair.ply --phase demo --seed 7 --sheet chair-sheet.png
    python scripts/generate.py front.png back.png --combine multidiffusion
    python scripts/generate.py "a red chair" --checkpoint microsoft/TRELLIS-text-xlarge

Writes the best of the phase's candidates as the phase would have it sent. Prints each candidate's quality, the time of
each stage and the splats' statistics. Exit 2 if the prompt, the phase or the weights are at fault.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from PIL import Image
from tqdm import tqdm

from miner.config.loader import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import load_phase
from miner.errors import OperatorError
from pipeline import (
    BestOfN,
    BestResult,
    CheckpointSource,
    FormatError,
    ImagePrompt,
    ImagesPrompt,
    PipelineError,
    Prompt,
    PromptError,
    QualityScorer,
    Request,
    Splats,
    TextPrompt,
    TextToImageParams,
    choose_compute,
    decode_image_prompt,
    load_backend,
    parse_text_prompt,
    ply,
    spz,
)
from pipeline.conditioning.prompt import Combine
from pipeline.rendering.contact_sheet import draw_contact_sheet
from pipeline.splats.statistics import compute_statistics
from pipeline.splats.validation import invalid_reason

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def read_prompt(words: list[str], combine: Combine) -> Prompt:
    """Files are pictures of one object; anything else is a sentence. Raises PromptError."""
    paths = [Path(word) for word in words]
    if not any(path.suffix.lower() in PICTURE_SUFFIXES or path.is_file() for path in paths):
        return parse_text_prompt(" ".join(words))
    images = tuple(read_picture(path) for path in paths)
    return images[0] if len(images) == 1 else ImagesPrompt(images, combine)


def read_picture(path: Path) -> ImagePrompt:
    """The picture in a file. Raises PromptError."""
    try:
        return decode_image_prompt(path.read_bytes())
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class Sources:
    """What a prompt is generated with: networks for pictures or for sentences, and what draws sentences."""

    image: CheckpointSource | None = None
    text: CheckpointSource | None = None
    drawn_by: str | None = None


def sources(phase: Phase, prompt: Prompt, checkpoint: str | None) -> Sources:
    """What the prompt is generated with; a checkpoint takes the place of the phase's. Raises OperatorError."""
    given = None if checkpoint is None else CheckpointSource(checkpoint)
    image = given or (phase.image.source() if phase.image else None)
    if not isinstance(prompt, TextPrompt):
        if image is None:
            raise OperatorError("the phase has no image.checkpoint: name one with --checkpoint")
        return Sources(image=image)
    if phase.text_to_image is not None:
        return Sources(image=image, drawn_by=phase.text_to_image.model)
    text = given or (phase.text.source() if phase.text else None)
    if text is None:
        raise OperatorError("the phase has no text.checkpoint: name one with --checkpoint")
    return Sources(text=text)


def exported(splats: Splats, phase: Phase) -> Splats:
    """The splats as the phase has them written. Raises FormatError."""
    try:
        return phase.export.apply(splats)
    except ValueError as error:
        raise FormatError(f"export is impossible: {error}") from None


def as_received(splats: Splats, phase: Phase) -> Splats:
    """What a validator would decode and judge. Raises FormatError."""
    sent = exported(splats, phase)
    return spz.verify_round_trip(sent, spz.to_bytes(sent))


def generate(prompt: Prompt, phase: Phase, sources: Sources, seed: int, device: str) -> BestResult:
    """Load what the prompt needs and generate the phase's candidates, with a progress bar."""
    compute = choose_compute(device, fp8=phase.acceleration.fp8)
    generator = load_backend(
        phase.backend,
        compute,
        image=sources.image,
        text=sources.text,
        background_model=phase.background.model,
        background_provider=phase.background.provider,
        text_to_image=sources.drawn_by,
    )
    scorer = QualityScorer.load(phase.scorer.weights, compute.device) if phase.scorer else None
    structure, latents = phase.samplers
    limit = phase.max_voxels.limit() if phase.max_voxels else None
    drawing = phase.text_to_image.params() if phase.text_to_image else TextToImageParams()
    request = Request(prompt, seed, structure, latents, limit, drawing)
    count, seconds = phase.candidates.count, phase.candidates.seconds
    with tqdm(total=count * (structure.steps + latents.steps), unit="step", leave=False) as bar:

        def show(stage: str, _done: int, _steps: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.update()

        search = BestOfN(
            generator,
            request,
            scorer,
            count=count,
            seconds=seconds,
            received=lambda splats: as_received(splats, phase),
        )
        return search.run(show)


def shown(prompt: Prompt) -> Image.Image | str:
    """What stands beside the result on the contact sheet: the sentence, or the first picture."""
    if isinstance(prompt, TextPrompt):
        return prompt.text
    return (prompt.images[0] if isinstance(prompt, ImagesPrompt) else prompt).image


def report(best: BestResult, splats: Splats, phase: Phase) -> None:
    """Print how the best was found and made, and what was written of it."""
    asset = best.asset
    if phase.scorer is not None:
        for number, candidate in enumerate(best.candidates, 1):
            quality = "not scored" if candidate.quality is None else f"quality {candidate.quality:.4f}"
            problem = f", {candidate.problem}" if candidate.problem else ""
            print(f"candidate {number}: seed {candidate.seed}, {candidate.seconds:.2f} s, {quality}{problem}")
    if phase.gate is not None and best.quality is not None and best.quality < phase.gate.quality:
        print(f"the phase's gate, quality {phase.gate.quality:g}, would withhold it")
    print(f"seed {asset.seed}, {asset.voxels} voxels, {len(splats)} gaussians")
    print("seconds: " + ", ".join(f"{stage} {value:.2f}" for stage, value in asset.seconds.items()))
    for name, value in asdict(compute_statistics(splats)).items():
        print(f"{name}: {value}")
    print(f"a validator would find it {invalid_reason(splats) or 'valid'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="+", help="an image file, several of the same object, or a sentence")
    parser.add_argument(
        "--combine", choices=get_args(Combine), default="stochastic", help="how several pictures are combined"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out.ply"), help="a .ply or .spz file")
    parser.add_argument("--phase", default="phase3")
    parser.add_argument("--checkpoint", help="instead of the phase's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="write a picture of prompt and result")
    arguments = parser.parse_args()
    if arguments.output.suffix not in (".ply", ".spz"):
        parser.error(f"--output must end in .ply or .spz, not {arguments.output.suffix!r}")
    try:
        phase = load_phase(arguments.phase, shipped_config() / "miner.yaml").settings
        prompt = read_prompt(arguments.prompt, arguments.combine)
        seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
        best = generate(prompt, phase, sources(phase, prompt, arguments.checkpoint), seed, arguments.device)
        splats = exported(best.asset.splats, phase)
        arguments.output.write_bytes(
            ply.to_bytes(splats) if arguments.output.suffix == ".ply" else spz.to_bytes(splats)
        )
        if arguments.sheet:
            draw_contact_sheet(shown(prompt), splats, f"seed {best.asset.seed}").save(arguments.sheet)
    except (OperatorError, PipelineError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    report(best, splats, phase)
    return 0


if __name__ == "__main__":
    sys.exit(main())
