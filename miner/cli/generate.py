"""sn17-miner generate: one object from a picture, several pictures of it, or a sentence, without a network."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from miner.cli.explanation import Explanation
from miner.cli.options import FILE, FOLDER, UpAxis, load_files, load_phase, operator_files, refuse_same_file
from miner.cli.output import write_output, write_picture
from miner.cli.stored_tasks import find_stored_task
from miner.words import plural

if TYPE_CHECKING:
    from PIL import Image

    from miner.config.phase import Phase
    from miner.config.phase_files import NamedPhase
    from miner.gpu import LoadedModels
    from pipeline import BestResult, GenerationJob, Prompt, Request, Splats

Combine = Literal["stochastic", "multidiffusion"]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
OUTPUT_SUFFIXES = (".ply", ".spz")


@click.command()
@click.argument("prompt", nargs=-1)
@click.option(
    "-o", "--output", type=FILE, show_default="a new .ply file in the state folder", help="A .ply or .spz file."
)
@click.option("--phase", "phase_name", show_default="phase of the settings file", help="The phase to generate with.")
@click.option(
    "--checkpoint",
    metavar="REFERENCE",
    show_default="that of the phase",
    help="Another checkpoint: a directory or a Hugging Face id.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), show_default="random", help="The seed of all noise.")
@click.option("--device", show_default="device of the settings file", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--combine", type=click.Choice(get_args(Combine)), default="stochastic", help="How several pictures are combined."
)
@click.option(
    "--up",
    type=click.Choice(get_args(UpAxis)),
    default="-y",
    help="The axis of the object's upper side: -y as in upstream's files, for most viewers; y as submitted.",
)
@click.option("--sheet", type=FILE, show_default="none", help="Draw the prompt beside four views into this picture.")
@click.option(
    "--explain",
    type=FOLDER,
    show_default="none",
    help="Write a page into this folder, with pictures of every step from the prompt to the score.",
)
@click.option(
    "--task",
    metavar="ID",
    show_default="none",
    help="Instead of PROMPT: a task whose result is still in the state folder, with its phase and seed.",
)
@operator_files
def generate(
    prompt: tuple[str, ...],
    output: Path | None,
    phase_name: str | None,
    checkpoint: str | None,
    seed: int | None,
    device: str | None,
    combine: Combine,
    up: UpAxis,
    sheet: Path | None,
    explain: Path | None,
    task: str | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Generate one object, without a network.

    PROMPT is a picture, several pictures of the same object, or a sentence. The file is the best of the phase's
    candidates: an .spz with --up y exactly as it would be submitted, a .ply without what SPZ rounds off. Candidates are
    scored as validators receive them. Exit code 2 if the prompt, the phase or the weights are at fault.
    """
    from miner.config.phase_files import NamedPhase
    from miner.errors import OperatorError
    from miner.gpu import choose_phase_compute, load_models
    from miner.tasks import make_container, make_request
    from pipeline import GenerationJob, PipelineError

    files = load_files(config, state)
    if bool(prompt) == (task is not None):
        raise OperatorError("give either PROMPT, a picture or a sentence, or --task ID")
    if output is not None and output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise OperatorError(f"--output must end in .ply or .spz, not {output.suffix!r}")
    if sheet is not None and sheet.suffix.lower() not in PICTURE_SUFFIXES:
        raise OperatorError(f"--sheet must end in .png or another suffix of pictures, not {sheet.suffix!r}")
    for path in (output, sheet):
        for word in prompt:
            if path is not None:
                refuse_same_file(Path(word), path, "PROMPT and the file to write")
    try:
        if task is None:
            decoded = _read_prompt(prompt, combine)
            named = load_phase(phase_name or files.settings.phase, files.config)
        else:
            stored = find_stored_task(files, task)
            decoded, seed = stored.prompt, stored.seed if seed is None else seed
            named = load_phase(phase_name, files.config) if phase_name else stored.find_phase(files.config)
            # The seed is that of the candidate that was sent.
            once = named.settings.candidates.model_copy(update={"count": 1})
            named = NamedPhase(named.name, named.settings.model_copy(update={"candidates": once}))
        phase = _for_prompt(named.settings, decoded, checkpoint)
        settings = files.settings.model_copy(update={"device": device or files.settings.device})
        request = make_request(decoded, seed, phase)
        if output is None:
            output = files.state_dir / "generated" / f"{time.strftime('%Y%m%d-%H%M%S')}-{request.seed}.ply"
        # Before the work, so that none is lost to a folder that cannot be made.
        for path in (output, sheet or output):
            path.parent.mkdir(parents=True, exist_ok=True)
        page = Explanation.begin(explain, "From the prompt to the object", _facts(named, request)) if explain else None
        models = load_models(phase, choose_phase_compute(phase, settings))
        submitted = make_container("spz", up, settings.spz, phase)
        copies = (make_container("ply", up, settings.spz, phase),) if output.suffix.lower() == ".ply" else ()
        job = GenerationJob(
            "generate", request, submitted, copies,
            preview_steps=phase.candidates.preview_steps or 0, is_explained=page is not None,
        )  # fmt: skip
        best = _run_explained(models, job, phase, page)
        (data,) = best.asset.copies or (best.asset.data,)
        write_output(output, data)
        splats = submitted.unpack(best.asset.data)
        if sheet is not None:
            _draw_sheet(decoded, splats, best.asset.seed, sheet)
    except PipelineError as error:
        raise OperatorError(str(error)) from None
    _report(best, splats, phase)
    click.echo(f"{output}: {plural(len(splats), 'gaussian')}, {plural(len(data), 'byte')}")


def _read_prompt(words: tuple[str, ...], combine: Combine) -> "Prompt":
    """Read pictures if the words name files, else take them as a sentence. Raise PromptError."""
    from pipeline import ImagePrompt, ImagesPrompt, PromptError, decode_image_prompt, parse_text_prompt

    def read_picture(path: Path) -> ImagePrompt:
        try:
            return decode_image_prompt(path.read_bytes())
        except OSError as error:
            raise PromptError(f"{path} cannot be read: {error.strerror}") from None

    paths = [Path(word) for word in words]
    if not any(path.suffix.lower() in PICTURE_SUFFIXES or _is_file(path) for path in paths):
        return parse_text_prompt(" ".join(words))
    images = tuple(read_picture(path) for path in paths)
    return images[0] if len(images) == 1 else ImagesPrompt(images, combine)


def _is_file(path: Path) -> bool:
    """Return whether there is such a file; a sentence may be too long for a name."""
    try:
        return path.is_file()
    except OSError:
        return False


def _for_prompt(phase: "Phase", prompt: "Prompt", checkpoint: str | None) -> "Phase":
    """Return the phase with only the checkpoints that the prompt needs, so that no others are loaded.

    Raises OperatorError if there is none.
    """
    from miner.config.phase import CheckpointSettings, TextCheckpointSettings
    from miner.errors import OperatorError
    from pipeline import TextPrompt

    def section(name: str, own: CheckpointSettings | None) -> CheckpointSettings:
        chosen = CheckpointSettings(checkpoint=checkpoint) if checkpoint else own
        if chosen is None:
            raise OperatorError(f"the phase has no {name}.checkpoint: name one with --checkpoint")
        return chosen

    if not isinstance(prompt, TextPrompt):
        return phase.model_copy(update={"image": section("image", phase.image), "text": None, "text_to_image": None})
    if phase.text_to_image is not None:
        return phase.model_copy(update={"image": section("image", phase.image), "text": None})
    text = section("text", phase.text)
    return phase.model_copy(update={"text": TextCheckpointSettings(**dict(text)), "image": None})


def _run(models: "LoadedModels", job: "GenerationJob", phase: "Phase") -> "BestResult":
    """Make the phase's candidates, with a progress bar."""
    from tqdm import tqdm

    from miner.tasks import best_of_n
    from pipeline import CandidateMaker, run_best_of_n

    request = job.request
    steps = request.sparse_structure_sampler_params.steps + request.slat_sampler_params.steps
    with tqdm(total=phase.candidates.count * steps, unit="step", leave=False) as bar:

        def advance(stage: str, _done: int, _steps: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.update()

        choice = best_of_n(request, phase, models.scorer is not None)
        return run_best_of_n(CandidateMaker(models.backend, models.scorer), job, choice, advance)


def _facts(named: "NamedPhase", request: "Request") -> dict[str, str]:
    return {"phase": named.label, "seed": str(request.seed), "prompt": request.prompt.label}


def _run_explained(
    models: "LoadedModels", job: "GenerationJob", phase: "Phase", page: Explanation | None
) -> "BestResult":
    """Make the phase's candidates, and write the page, if there is one, whether there is a result or not."""
    from pipeline import NoCutOut, PipelineError

    if page is None:
        return _run(models, job, phase)
    page.add_prompt(job.request.prompt)
    try:
        best = _run(models, job, phase)
    except PipelineError as error:
        if isinstance(error, NoCutOut):
            page.add_mattings(error.mattings, "")
        page.add_error(f"{type(error).__name__}: {error}")
        click.echo(f"{page.write()}: why there is no object")
        raise
    page.add_pictures(best.asset.pictures)
    page.add_result(best, job.container.unpack(best.asset.data))
    click.echo(f"{page.write()}: how it came about")
    return best


def _draw_sheet(prompt: "Prompt", splats: "Splats", seed: int, sheet: Path) -> None:
    from pipeline import ImagesPrompt, TextPrompt, draw_contact_sheet

    shown: Image.Image | str
    if isinstance(prompt, TextPrompt):
        shown = prompt.text
    else:
        shown = (prompt.images[0] if isinstance(prompt, ImagesPrompt) else prompt).image
    write_picture(sheet, draw_contact_sheet(shown, splats, f"seed {seed}"))


def _report(best: "BestResult", splats: "Splats", phase: "Phase") -> None:
    """Print how the best candidate was found, and what it is."""
    from dataclasses import asdict

    from miner.tasks import decide_by_limit
    from pipeline import compute_statistics

    asset = best.asset
    if phase.scorer is not None:
        for number, candidate in enumerate(best.candidates, 1):
            score = candidate.score or "not scored"
            problem = f", {candidate.problem}" if candidate.problem else ""
            click.echo(f"candidate {number}: seed {candidate.seed}, {candidate.seconds:.2f} s, {score}{problem}")
    if phase.gate is not None and phase.gate != "auto":
        decision = decide_by_limit(phase.gate, best.score, len(best.candidates))
        if not decision.is_sent:
            click.echo(f"the miner would withhold it: {decision.reason}")
    click.echo(f"seed {asset.seed}, {plural(asset.voxels, 'voxel')}, {plural(len(splats), 'gaussian')}")
    click.echo("seconds: " + ", ".join(f"{stage} {value:.2f}" for stage, value in asset.seconds.items()))
    for name, value in asdict(compute_statistics(splats)).items():
        click.echo(f"{name}: {value}")
    click.echo(f"a validator would find it {best.problem or 'valid'}")
