"""Download all the weights that a phase needs, once; the miner itself never downloads.

    python scripts/download_weights.py --phase phase3
    python scripts/download_weights.py --phase phase3 --to weights
    python scripts/download_weights.py microsoft/TRELLIS-image-large@main

By default everything goes to the Hugging Face cache, where the miner finds it under the names in the phase. With --to
it goes to a plain directory, to be named in the phase: DIR for one checkpoint, DIR/image, DIR/text, DIR/scorer and
DIR/text_to_image for several things. Besides --phase or instead of it, a checkpoint, a scorer, a text-to-image model
or an encoder (org/name) or a single network (org/name/path) can be named, each with a revision (@revision).

Run again after an interruption: files continue where they stopped, and what is there is checked against the hub's
checksums. HF_ENDPOINT and HF_TOKEN have their usual meaning. Exit 1 if another attempt may help, 2 if not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from miner.config.loader import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import load_phase
from miner.errors import OperatorError
from pipeline.errors import PipelineError
from pipeline.trellis.checkpoint import ROLES, read_json
from pipeline.weights import background_models as fetch_background_model
from pipeline.weights import hub
from pipeline.weights.diffusers_layout import get_text_to_image
from pipeline.weights.hub import DownloadError, RemoteFile
from pipeline.weights.locate import (
    MODEL_INDEX,
    SCORER_BACKBONE,
    SCORER_FILE,
    HubReference,
    encoder_reference,
    is_embedded,
    network_stem,
)

# Puts a file where the miner looks for it; the path is relative to the checkpoint's directory.
Place = Callable[[RemoteFile, str], Path]
ENCODERS = {
    "image_cond_model": ("config.json", "model.safetensors"),
    "text_cond_model": ("config.json", "model.safetensors", "vocab.json", "merges.txt"),
}
# Say more about a tokenizer; not every repository has them.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Target:
    """One checkpoint, network, encoder, scorer or text-to-image model to get.

    `name` is its folder where there are several, `key` where a phase names it.
    """

    name: str
    reference: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    key: str = ""


def check_header(path: Path) -> None:
    """Raises DownloadError if a .safetensors file does not hold all the tensors that its header lists."""
    if path.suffix != ".safetensors":
        return
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise DownloadError(f"{path} is damaged or no safetensors file: {error}") from None


def in_cache(file: RemoteFile, _relative: str) -> Path:
    """A Place: the Hugging Face cache."""
    return hub.to_cache(file)


def in_folder(folder: Path, there: dict[str, Path]) -> Place:
    """A Place: a plain directory. `there` has the files of all folders by checksum; equal ones are linked."""

    def place(file: RemoteFile, relative: str) -> Path:
        target = folder / relative
        if not target.resolve().is_relative_to(folder.resolve()):
            raise DownloadError(f"{file} would be written to {target}, outside of {folder}")
        twin = there.setdefault(file.checksum, target)
        if twin != target and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a file system without links gets the file twice
                target.hardlink_to(twin)
        hub.to_path(file, target)
        return target

    return place


def get(source: HubReference, path: str, place: Place, relative: str) -> Path:
    """A file of a repository, put in its place and checked. Raises DownloadError, also if there is no such file."""
    file = hub.find(source.repository, path, source.revision)
    if file is None:
        pickles = "; pickled weights are not used" if path.endswith(".safetensors") else ""
        raise DownloadError(f"{source.repository} has no {path}{pickles}")
    target = place(file, relative)
    check_header(target)
    print(f"{file}: verified, {target}")
    return target


def get_network(reference: str, checkpoint: HubReference | Path, place: Place) -> None:
    """The two files of a network, from where the loader would take them: checkpoint, path, repository."""
    stem = network_stem(reference)
    source: HubReference | None = None
    if isinstance(checkpoint, HubReference):
        if ".." not in Path(stem).parts and hub.find(checkpoint.repository, f"{stem}.json", checkpoint.revision):
            source = HubReference(checkpoint.repository, stem, checkpoint.revision)
        folders = [Path()]
    else:
        folders = [checkpoint, Path()]
    if source is None:
        for folder in folders:
            local = folder / Path(stem).expanduser()
            if local.with_name(f"{local.name}.json").is_file():
                check_header(local.with_name(f"{local.name}.safetensors"))
                return
        source = HubReference.parse(reference)
        if source is None or not source.path:
            owner = checkpoint.repository if isinstance(checkpoint, HubReference) else checkpoint
            raise DownloadError(f"{owner} has no {stem}.json")
    for suffix in (".json", ".safetensors"):
        get(source, network_stem(source.path) + suffix, place, stem + suffix)


def get_encoder(name: str, kind: str, checkpoint: HubReference | Path, place: Place) -> None:
    """The transformers directory of an encoder: in the checkpoint, or a repository of its own."""
    source, folder = None, ""
    if isinstance(checkpoint, HubReference):
        if hub.find(checkpoint.repository, f"{name}/config.json", checkpoint.revision):
            source, folder = checkpoint, f"{name}/"
    elif (checkpoint / name / "config.json").is_file():
        check_header(checkpoint / name / "model.safetensors")
        return
    source = source or HubReference.parse(encoder_reference(name))
    if source is None or source.path:
        raise DownloadError(f"the encoder {name!r} is neither in the checkpoint nor a Hugging Face id")
    get_encoder_files(source, ENCODERS[kind], place, folder, f"{name}/")


def get_encoder_files(source: HubReference, files: tuple[str, ...], place: Place, folder: str, relative: str) -> None:
    """Some files of a repository's folder, put into the folder `relative`."""
    for file in files:
        get(source, folder + file, place, relative + file)
    if "vocab.json" in files:
        for file in TOKENIZER_FILES:
            if hub.find(source.repository, folder + file, source.revision):
                get(source, folder + file, place, relative + file)


def get_scorer(source: HubReference, place: Place) -> None:
    """The weights of the quality scorer, and the shape of its backbone from the repository of that."""
    get(source, SCORER_FILE, place, SCORER_FILE)
    get(HubReference(SCORER_BACKBONE, "", None), "config.json", place, "config.json")


def get_text_to_image_model(source: HubReference, place: Place) -> None:
    """A model in diffusers' layout."""
    get_text_to_image(
        lambda path: hub.find(source.repository, path, source.revision) is not None,
        lambda path: get(source, path, place, path),
    )


def get_checkpoint(config: Path, checkpoint: HubReference | Path, overrides: Mapping[str, str], place: Place) -> None:
    """What a pipeline.json lists, with the networks of `overrides` in place of its own."""
    try:
        args: dict[str, Any] = read_json(config)["args"]
        references = {role: overrides.get(role) or args["models"][role] for role in ROLES}
    except (KeyError, TypeError) as error:
        raise DownloadError(f"{config} lacks the key {error}") from None
    for reference in references.values():
        get_network(reference, checkpoint, place)
    for kind in ENCODERS:
        if args.get(kind):
            get_encoder(args[kind], kind, checkpoint, place)


def download(target: Target, folder: Path | None, there: dict[str, Path]) -> None:
    """All of one target, to a plain directory or to the Hugging Face cache."""
    directory = Path(target.reference).expanduser()
    if directory.is_dir():
        if folder and folder.resolve() != directory.resolve():
            raise DownloadError(f"{directory} is a directory already: --to can only be that directory")
        place = in_folder(directory, there) if folder else in_cache
        if (directory / MODEL_INDEX).is_file():
            return
        if (directory / SCORER_FILE).is_file():
            if not (directory / "config.json").is_file():
                get(HubReference(SCORER_BACKBONE, "", None), "config.json", place, "config.json")
            return
        get_checkpoint(directory / "pipeline.json", directory, target.overrides, place)
        return
    source = HubReference.parse(target.reference)
    if source is None:
        raise DownloadError(f"{target.reference!r} is neither a directory nor a Hugging Face id such as org/name")
    place = in_folder(folder, there) if folder else in_cache
    if source.path:
        get_network(target.reference, Path(), place)
    elif hub.find(source.repository, "pipeline.json", source.revision):
        config = get(source, "pipeline.json", place, "pipeline.json")
        get_checkpoint(config, source, target.overrides, place)
    elif hub.find(source.repository, SCORER_FILE, source.revision):
        get_scorer(source, place)
    elif hub.find(source.repository, MODEL_INDEX, source.revision):
        get_text_to_image_model(source, place)
    else:
        text = hub.find(source.repository, "vocab.json", source.revision)
        get_encoder_files(source, ENCODERS["text_cond_model" if text else "image_cond_model"], place, "", "")


def targets_of(phase: Phase) -> list[Target]:
    """What a phase generates with."""
    sections = {"image": phase.image, "text": phase.text}
    found = [
        Target(name, s.checkpoint, s.source().overrides, f"{name}.checkpoint") for name, s in sections.items() if s
    ]
    if phase.scorer:
        found.append(Target("scorer", phase.scorer.weights, key="scorer.weights"))
    if phase.text_to_image:
        found.append(Target("text_to_image", phase.text_to_image.model, key="text_to_image.model"))
    return found


def run(arguments: argparse.Namespace) -> None:
    """Download what the command line names, and say what to write into the phase."""
    phase = load_phase(arguments.phase, shipped_config() / "miner.yaml").settings if arguments.phase else None
    of_phase = targets_of(phase) if phase else []
    others = [Target(text.partition("@")[0].replace("/", "--"), text) for text in arguments.references]
    targets = [target for target in (*of_phase, *others) if not is_embedded(target.reference)]
    there: dict[str, Path] = {}
    for target in targets:
        folder = arguments.to / target.name if arguments.to and len(targets) > 1 else arguments.to
        download(target, folder, there)
        if folder and target in of_phase:
            print(f"set {target.key} of phase {arguments.phase} to {folder.resolve()}")
    if phase:
        print(f"background model: {fetch_background_model.fetch(phase.background.model)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", nargs="*", metavar="REFERENCE", help="org/name[/path][@revision]")
    parser.add_argument("--phase")
    parser.add_argument("--to", type=Path, metavar="DIR", help="a plain directory instead of the Hugging Face cache")
    arguments = parser.parse_args()
    if not arguments.references and not arguments.phase:
        parser.error("name a --phase, or what to download")
    try:
        run(arguments)
    except DownloadError as error:
        print(f"{error}{'; run this again to go on' if error.retry else ''}", file=sys.stderr)
        return 1 if error.retry else 2
    except subprocess.CalledProcessError:
        print("pip could not download the package that holds the background model", file=sys.stderr)
        return 1
    except (OperatorError, PipelineError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run this again to go on", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
