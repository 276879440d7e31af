"""sn17-miner generate: objects from pictures and sentences, without a network."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from miner.cli.generation import Generation
from miner.cli.generation_bar import GenerationBar
from miner.cli.generation_files import GenerationFiles
from miner.cli.generation_report import open_picture, write_sheet
from miner.cli.help import HelpfulCommand
from miner.cli.options import FILE, FOLDER, UpAxis, complete_phase, load_files, load_phase, operator_files
from miner.cli.prompt_sources import Combine, PromptSource, find_prompts
from miner.cli.stored_tasks import find_stored_task
from miner.errors import OperatorError
from miner.words import plural

if TYPE_CHECKING:
    from PIL import Image

    from miner.config import MinerSettings
    from miner.config.phase import Phase
    from miner.gpu import LoadedModels


@click.command(
    cls=HelpfulCommand,
    option_groups={
        "What is written": ("output", "up", "sheet", "opened", "explain"),
        "How it is made": ("phase_name", "checkpoint", "seed", "combine", "task", "device"),
    },
    examples=(
        'generate "a yellow duck" --phase demo --open',
        "generate chair.png -o chair.spz --up y",
        'generate "a red chair" "a blue car" table.png -o objects/',
        "generate pictures/ --sheet all.png",
        "generate - < prompts.txt",
        "generate front.png back.png --combine stochastic",
    ),
)
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    show_default="a new file in the state folder",
    help="A .ply or .spz file, or a folder for new files.",
)
@click.option(
    "--phase",
    "phase_name",
    show_default="phase of the settings file",
    shell_complete=complete_phase,
    help="The phase to generate with; demo needs no weights.",
)
@click.option(
    "--checkpoint",
    metavar="REFERENCE",
    show_default="that of the phase",
    help="Another checkpoint: a directory or a Hugging Face id.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), show_default="random", help="The seed of all noise.")
@click.option("--device", show_default="device of the settings file", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--combine",
    type=click.Choice(get_args(Combine)),
    show_default="an object of each picture",
    help="Make one object of several pictures of it, combined like this.",
)
@click.option(
    "--up",
    type=click.Choice(get_args(UpAxis)),
    default="-y",
    help="The axis of the object's upper side: -y as in upstream's files, for most viewers; y as submitted.",
)
@click.option(
    "--sheet",
    type=FILE,
    show_default="none",
    help="Draw each prompt beside four views of its object into this picture.",
)
@click.option("--open", "opened", is_flag=True, help="Show the sheet when it is done; without --sheet, a new one.")
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
    prompts: tuple[str, ...],
    output: Path | None,
    phase_name: str | None,
    checkpoint: str | None,
    seed: int | None,
    device: str | None,
    combine: Combine | None,
    up: UpAxis,
    sheet: Path | None,
    opened: bool,
    explain: Path | None,
    task: str | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Generate objects, without a network.

    Each PROMPT is a picture, a folder of pictures, a sentence in quotes, a .txt file with a prompt a line, or - for the
    standard input (lines, or a picture). Words without quotes are one sentence.

    A file is the best of the phase's candidates: an .spz with --up y exactly as it would be submitted, a .ply without
    what SPZ rounds off. Candidates are scored as validators receive them.

    If one of several prompts fails, the others go on. Exit code 2 if a prompt, the phase or the weights are at fault.
    """
    from miner.config.phase_files import NamedPhase
    from pipeline import PipelineError

    files = load_files(config, state)
    if bool(prompts) == (task is not None):
        raise OperatorError("give either PROMPT, a picture or a sentence, or --task ID; see --help")
    try:
        if task is None:
            sources = find_prompts(prompts, combine)
            named = load_phase(phase_name or files.settings.phase, files.config)
        else:
            stored = find_stored_task(files, task)
            sources, seed = (PromptSource.of(stored.prompt, task),), stored.seed if seed is None else seed
            named = load_phase(phase_name, files.config) if phase_name else stored.find_phase(files.config)
            # The seed is that of the candidate that was sent.
            once = named.settings.candidates.model_copy(update={"count": 1})
            named = NamedPhase(named.name, named.settings.model_copy(update={"candidates": once}))
    except PipelineError as error:
        raise OperatorError(str(error)) from None
    readable = _check(sources)
    phase = _for_prompts(named.settings, readable, checkpoint)
    seeds = tuple(secrets.randbelow(2**31) if seed is None else seed for _ in readable)
    targets = GenerationFiles.choose(readable, seeds, files.state_dir, output, sheet, opened)
    settings = files.settings.model_copy(update={"device": device or files.settings.device})
    if explain is not None:
        # Before the work, as the other folders.
        explain.mkdir(parents=True, exist_ok=True)
    work = Generation(named, phase, settings, up, _load(named.name, phase, settings))
    made = _make_all(work, readable, seeds, targets, explain, is_single=len(sources) == 1)
    if opened and made and targets.sheet is not None:
        open_picture(targets.sheet)
    if made < len(sources):
        raise OperatorError(f"{len(sources) - made} of {plural(len(sources), 'prompt')} did not become an object")


def _make_all(
    work: Generation, sources: tuple[PromptSource, ...], seeds: tuple[int, ...], targets: GenerationFiles,
    explain: Path | None, is_single: bool,
) -> int:  # fmt: skip
    """Make an object of each prompt, and return how many there are.

    Failures are told, but that of the single prompt of a command is raised as OperatorError.
    """
    from pipeline import PipelineError

    made = 0
    rows: list[Image.Image] = []
    try:
        with GenerationBar(len(sources)) as bar:
            for source, seed, path in zip(sources, seeds, targets.objects, strict=True):
                bar.begin(source.name)
                page = explain / path.stem if explain and len(sources) > 1 else explain
                try:
                    prompt = source.read()
                    one = work.make(prompt, seed, path, page, bar)
                    if targets.sheet is not None:
                        rows.append(one.draw(prompt))
                except PipelineError as error:
                    if is_single:
                        raise OperatorError(str(error)) from None
                    bar.echo_error(f"{source.name}: {error}")
                    continue
                made += 1
                if is_single:
                    one.report(work.phase, bar.echo)
                else:
                    bar.echo(one.summary)
            bar.end()
    finally:
        # Also of what was made before an interruption.
        if targets.sheet is not None and rows:
            write_sheet(targets.sheet, rows)
            click.echo(f"{targets.sheet}: the sheet")
    return made


def _check(sources: tuple[PromptSource, ...]) -> tuple[PromptSource, ...]:
    """Return the prompts that can be read, and name the others; raise OperatorError if none can."""
    from pipeline import PromptError

    readable = []
    for source in sources:
        try:
            source.read()
        except PromptError as error:
            if len(sources) == 1:
                raise OperatorError(str(error)) from None
            click.echo(f"ERROR: {source.name}: {error}", err=True)
        else:
            readable.append(source)
    if not readable:
        raise OperatorError("none of the prompts can be read")
    return tuple(readable)


def _for_prompts(phase: "Phase", sources: tuple[PromptSource, ...], checkpoint: str | None) -> "Phase":
    """Return the phase with only the checkpoints that the prompts need, so that no others are loaded.

    Raises OperatorError if there is none.
    """
    from miner.config.phase_sections import CheckpointSettings, TextCheckpointSettings

    sentences = any(source.is_text for source in sources)
    is_drawn = sentences and phase.text_to_image is not None
    takes_images = is_drawn or not all(source.is_text for source in sources)
    takes_text = sentences and not is_drawn
    if checkpoint and takes_images and takes_text:
        raise OperatorError(
            "--checkpoint is for pictures or for sentences, and there are both: give one kind at a time"
        )

    def section(name: str, own: CheckpointSettings | None) -> CheckpointSettings:
        chosen = CheckpointSettings(checkpoint=checkpoint) if checkpoint else own
        if chosen is None:
            raise OperatorError(f"the phase has no {name}.checkpoint: name one with --checkpoint")
        return chosen

    text = TextCheckpointSettings(**dict(section("text", phase.text))) if takes_text else None
    return phase.model_copy(
        update={
            "image": section("image", phase.image) if takes_images else None,
            "text": text,
            "text_to_image": phase.text_to_image if is_drawn else None,
        }
    )


def _load(name: str, phase: "Phase", settings: "MinerSettings") -> "LoadedModels":
    """Load the models. Raise OperatorError, which for want of weights begins with what needs none."""
    from miner.gpu import choose_phase_compute, load_models
    from pipeline import CheckpointError, PipelineError, is_embedded

    try:
        return load_models(phase, choose_phase_compute(phase, settings))
    except CheckpointError as error:
        if all(map(is_embedded, phase.checkpoints)):
            raise OperatorError(str(error)) from None
        raise OperatorError(
            f"phase {name} cannot be loaded, try `--phase demo`, which needs no weights: {error}"
        ) from None
    except PipelineError as error:
        raise OperatorError(str(error)) from None
