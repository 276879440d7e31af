"""Generate one object from a picture, without a network.

    python scripts/generate.py chair.png -o chair.ply --phase demo --seed 7 --sheet chair-sheet.png

Prints the time of each stage and the splats' statistics. Exit 2 if the prompt, the phase or the weights are at fault.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tqdm import tqdm

from miner.errors import OperatorError
from miner.settings import Phase, find_phase, load_yaml, shipped_config
from pipeline import (
    Asset,
    Generator,
    ImagePrompt,
    PipelineError,
    PromptError,
    Request,
    choose,
    image_prompt,
    ply,
    spz,
    validity,
)
from pipeline.contact_sheet import contact_sheet
from pipeline.splats import statistics


def read_prompt(path: Path) -> ImagePrompt:
    """The picture in a file. Raises PromptError."""
    try:
        return image_prompt(path.read_bytes())
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None


def generate(prompt: ImagePrompt, phase: Phase, checkpoint: str, seed: int, device: str) -> Asset:
    """Load what the phase names and generate, with a progress bar."""
    generator = Generator.load(
        checkpoint,
        choose(device),
        background_model=phase.background.model,
        background_provider=phase.background.provider,
    )
    structure, latents = phase.sparse_structure_sampler_params.params(), phase.slat_sampler_params.params()
    limit = phase.max_voxels.limit() if phase.max_voxels else None
    with tqdm(total=structure.steps + latents.steps, unit="step", leave=False) as bar:

        def show(stage: str, _done: int, _steps: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.update()

        return generator.generate(Request(prompt, seed, structure, latents, limit), show)


def report(asset: Asset) -> None:
    """Print how the asset was made and what it is."""
    print(f"seed {asset.seed}, {asset.voxels} voxels, {len(asset.splats)} gaussians")
    print("seconds: " + ", ".join(f"{stage} {value:.2f}" for stage, value in asset.seconds.items()))
    for name, value in asdict(statistics(asset.splats)).items():
        print(f"{name}: {value}")
    print(f"a validator would find it {validity(asset.splats) or 'valid'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", type=Path, help="an image file")
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
        phase = load_yaml(find_phase(arguments.phase, shipped_config() / "miner.yaml"), Phase)
        prompt = read_prompt(arguments.prompt)
        seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
        asset = generate(prompt, phase, arguments.checkpoint or phase.image.checkpoint, seed, arguments.device)
        data = ply.to_bytes(asset.splats) if arguments.output.suffix == ".ply" else spz.to_bytes(asset.splats)
        arguments.output.write_bytes(data)
        if arguments.sheet:
            contact_sheet(prompt.image, asset.splats, f"seed {seed}").save(arguments.sheet)
    except (OperatorError, PipelineError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    report(asset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
