"""sn17-miner weights: download what phases need, and check that it is there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from miner.cli.help import HelpfulGroup
from miner.cli.options import FOLDER, complete_phase, group_operator_files, load_files, load_phase, operator_files
from miner.errors import MinerError, OperatorError

if TYPE_CHECKING:
    from miner.config.phase import Phase

PHASE: dict[str, Any] = {"metavar": "NAME", "shell_complete": complete_phase}
OF_SETTINGS = "phase of the settings file, unless a REFERENCE is given"


@dataclass(frozen=True)
class Target:
    """Weights to download or check.

    name:      folder of the weights if several are downloaded to one place.
    overrides: networks that replace those of a checkpoint, by role.
    key:       key of the phase that names the weights, "" for none.
    """

    name: str
    reference: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    key: str = ""


def targets_of(phase: "Phase") -> Iterator[Target]:
    """Yield the weights that a phase needs."""
    for name, checkpoint in (("image", phase.image), ("text", phase.text)):
        if checkpoint:
            yield Target(name, checkpoint.checkpoint, checkpoint.source().overrides, f"{name}.checkpoint")
    for name, key, reference in _scorer_networks(phase):
        yield Target(name, reference, key=f"scorer.{key}")
    if phase.text_to_image:
        yield Target("text_to_image", phase.text_to_image.model, key="text_to_image.model")
    key = "background.model" if phase.background.model else "background.models"
    for name in phase.background.names:
        yield Target("background", name, key=key)


def _scorer_networks(phase: "Phase") -> Iterator[tuple[str, str, str]]:
    """Yield folder, key and reference of each network that the parts of the phase's score need."""
    scorer = phase.scorer
    if scorer is None:
        return
    if "quality" in scorer.parts:
        yield "scorer", "weights", scorer.weights
    if "alignment" in scorer.parts and phase.takes_text:
        yield "text_alignment", "text_alignment", scorer.text_alignment
    if "alignment" in scorer.parts and phase.image:
        yield "image_alignment", "image_alignment", scorer.image_alignment
    if "similarity" in scorer.parts:
        yield "lpips", "lpips", scorer.lpips


def collect_targets(references: tuple[str, ...], phase: "Phase | None") -> list[Target]:
    """Return the weights that a phase needs, and the references."""
    of_phase = targets_of(phase) if phase else ()
    return [*of_phase, *(Target(text.partition("@")[0].replace("/", "--"), text) for text in references)]


@click.group(cls=HelpfulGroup)
@group_operator_files
def weights() -> None:
    """Download and check the weights that phases need.

    A REFERENCE is a checkpoint, scorer, text-to-image model or encoder of Hugging Face (org/name), a single network
    (org/name/path), each with an optional @revision, a directory, a background model (u2net, u2netp, ...), or
    AlexNet's file (alexnet-owt-7be5be79.pth).
    """


@weights.command(
    examples=(
        "weights download --phase phase3",
        "weights download u2netp",
    )
)
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@click.option("--phase", **PHASE, show_default="none", help="Download everything that this phase needs.")
@click.option(
    "--to",
    "folder",
    type=FOLDER,
    metavar="DIR",
    show_default="the Hugging Face cache",
    help="A plain directory for the weights, to be named in the phase.",
)
@operator_files
def download(
    references: tuple[str, ...], phase: str | None, folder: Path | None, config: Path | None, state: Path | None
) -> None:
    """Download weights; the miner itself never downloads.

    By default they go to the Hugging Face cache, where the miner finds them under the names in the phase. With --to
    they go to a plain directory: DIR itself for one thing; DIR/image, DIR/text, DIR/scorer, DIR/text_alignment,
    DIR/image_alignment and DIR/text_to_image for several. Background models always go to rembg's folder (~/.rembg, or
    U2NET_HOME), AlexNet to torch.hub's (~/.cache/torch/hub, or TORCH_HOME).

    Run the command again after an interruption: downloads are resumed, and files that are there are verified.
    HF_ENDPOINT and HF_TOKEN have their usual meaning. Exit code 1 if another attempt may help, 2 if not.
    """
    if not references and not phase:
        raise click.UsageError("name a --phase, or what to download")
    needed = load_phase(phase, load_files(config, state).config).settings if phase else None
    targets = collect_targets(references, needed)

    from pipeline import DownloadError, PipelineError, download_weights, has_fixed_place

    in_folders = [target for target in targets if not has_fixed_place(target.reference)]
    copies: dict[str, Path] = {}
    try:
        for target in targets:
            place = folder / target.name if folder and len(in_folders) > 1 else folder
            download_weights(
                target.reference,
                lambda name, path: click.echo(f"{name}: verified, {path}"),
                overrides=target.overrides,
                folder=place,
                copies=copies,
            )
            if place and target.key and target in in_folders:
                click.echo(f"set {target.key} of phase {phase} to {place.resolve()}")
    except DownloadError as error:
        if error.retry:
            raise MinerError(f"{error}; run the command again to resume") from None
        raise OperatorError(str(error)) from None
    except PipelineError as error:
        raise OperatorError(str(error)) from None
    except KeyboardInterrupt:
        raise MinerError("interrupted; run the command again to resume") from None


@weights.command(examples=("weights check --phase phase3",))
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@click.option("--phase", **PHASE, show_default=OF_SETTINGS, help="Check everything that this phase needs.")
@operator_files
def check(references: tuple[str, ...], phase: str | None, config: Path | None, state: Path | None) -> None:
    """Check, without a network, that weights are on this machine, complete and readable.

    Prints one line for each network, encoder and model. Exit code 2 if anything is missing or damaged.
    """
    if not references or phase:
        files = load_files(config, state)
        phase = phase or files.settings.phase
    targets = collect_targets(references, load_phase(phase, files.config).settings if phase else None)

    from pipeline import check_weights

    faulty: list[Target] = []
    for target in targets:
        for part in check_weights(target.reference, target.overrides):
            outcome = f"not usable: {part.problem}" if part.problem else f"ok, {part.path}"
            click.echo(f"{target.key or target.reference}, {part.name}: {outcome}")
            if part.problem and target not in faulty:
                faulty.append(target)
    if faulty:
        named = [target.reference for target in faulty if not target.key]
        arguments = [name for name in named if _can_be_downloaded(name)]
        if any(target.key for target in faulty):
            arguments.insert(0, f"--phase {phase}" + (f" --config {config}" if config else ""))
        command = f"run `sn17-miner weights download {' '.join(arguments)}`"
        raise OperatorError(f"weights are missing or damaged: {command if arguments else 'correct the names above'}")


def _can_be_downloaded(reference: str) -> bool:
    """Return whether `weights download` knows what a reference is; directories are completed."""
    from pipeline import HubReference, has_fixed_place

    is_directory = Path(reference).expanduser().is_dir()
    return is_directory or has_fixed_place(reference) or HubReference.parse(reference) is not None
