"""Download the weights that a reference names, with everything that they need."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DownloadError
from pipeline.weights import background_models, files, hub, locate
from pipeline.weights.alexnet import download_alexnet, is_alexnet
from pipeline.weights.files import MODEL_INDEX, OPEN_CLIP_CONFIG, PIPELINE_FILE, EncoderKind, check_file
from pipeline.weights.hub import RemoteFile
from pipeline.weights.locate import SCORER_BACKBONE, SCORER_FILE, HubReference, network_stem

# Files that complete a tokenizer; not every repository has them.
_OPTIONAL_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
# Files of directories that refer to nothing outside: text-to-image models, and the networks of open_clip and of
# transformers.
_WHOLE = (MODEL_INDEX, OPEN_CLIP_CONFIG, "config.json")

Store = Callable[[RemoteFile, str], Path]
"""Downloads a file to where the miner looks for it; the path is relative to the directory of the checkpoint."""

Report = Callable[[str, Path], None]
"""Called with the name and the path of each file that is there and verified."""


@dataclass(frozen=True)
class FolderStore:
    """Stores files in a plain directory.

    copies: one path of each checksum, shared by the stores of several folders, so that equal files are linked.
    """

    folder: Path
    copies: dict[str, Path] = field(default_factory=dict)

    def __call__(self, file: RemoteFile, relative: str) -> Path:
        """Store a file at the relative path. Raises DownloadError if that is outside the folder."""
        target = self.folder / relative
        if not target.resolve().is_relative_to(self.folder.resolve()):
            raise DownloadError(f"{file} would be written to {target}, outside of {self.folder}")
        copy = self.copies.setdefault(file.checksum, target)
        if copy != target and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # the file is downloaded again where the file system has no links
                target.hardlink_to(copy)
        hub.download_to_path(file, target)
        return target


def has_fixed_place(reference: str) -> bool:
    """Return whether weights are where they are whatever folder is named: with the package, rembg or torch.hub."""
    return locate.is_embedded(reference) or reference in background_models.BACKGROUND_MODELS or is_alexnet(reference)


def download_weights(
    reference: str, report: Report, *, overrides: Mapping[str, str] | None = None,
    folder: Path | None = None, copies: dict[str, Path] | None = None,
) -> None:  # fmt: skip
    """Download everything that a reference needs, to a plain directory or to the Hugging Face cache.

    The reference is a checkpoint, scorer, text-to-image model or encoder (org/name), a single network (org/name/path),
    each with an optional @revision, a directory, which is completed, the name of a background model, which always
    goes to rembg's folder, or AlexNet's file, which always goes to torch.hub's. `overrides` replace networks of a
    checkpoint by role. `copies` is shared by downloads to several folders, see FolderStore.

    Files continue where an earlier download stopped, and present ones are verified. Raises DownloadError, and
    CheckpointError or BackgroundModelError if a file is damaged.
    """
    if locate.is_embedded(reference):
        return
    if reference in background_models.BACKGROUND_MODELS:
        report(f"background model {reference}", background_models.download_model(reference))
        return
    if is_alexnet(reference):
        report("AlexNet", download_alexnet(reference))
        return
    directory = Path(reference).expanduser()
    if directory.is_dir():
        if folder and folder.resolve() != directory.resolve():
            raise DownloadError(f"{directory} is already a directory: --to can only be that directory")
        folder = directory if folder else None
    if folder is None:
        downloader = _Downloader(lambda file, _relative: hub.download_to_cache(file), report)
    else:
        downloader = _Downloader(FolderStore(folder, {} if copies is None else copies), report)
    if directory.is_dir():
        downloader.complete_directory(directory, overrides or {})
        return
    source = HubReference.parse(reference)
    if source is None:
        raise DownloadError(
            f"{reference!r} is neither a directory nor a Hugging Face id such as org/name, nor a background model "
            f"({', '.join(background_models.BACKGROUND_MODELS)})"
        )
    downloader.get_reference(reference, source, overrides or {})


@dataclass(frozen=True)
class _Downloader:
    store: Store
    report: Report

    def complete_directory(self, directory: Path, overrides: Mapping[str, str]) -> None:
        """Download what a directory lacks."""
        if (directory / SCORER_FILE).is_file():
            if not (directory / "config.json").is_file():
                self.get_backbone()
        elif (directory / PIPELINE_FILE).is_file() or not any((directory / name).is_file() for name in _WHOLE):
            self.get_checkpoint(directory / PIPELINE_FILE, directory, overrides)

    def get_reference(self, reference: str, source: HubReference, overrides: Mapping[str, str]) -> None:
        """Download a repository of any kind, or a network in it."""
        if source.path:
            self.get_network(reference, Path())
        elif _has(source, PIPELINE_FILE):
            self.get_checkpoint(self.get(source, PIPELINE_FILE), source, overrides)
        elif _has(source, SCORER_FILE):
            self.get(source, SCORER_FILE)
            self.get_backbone()
        elif _has(source, MODEL_INDEX):
            files.get_model_files(lambda path: _has(source, path), lambda path: self.get(source, path))
        elif _has(source, OPEN_CLIP_CONFIG):
            files.get_open_clip_files(lambda path: _has(source, path), lambda path: self.get(source, path))
        else:
            self.get_encoder_files(source, "text_cond_model" if _has(source, "vocab.json") else "image_cond_model")

    def get_checkpoint(self, config: Path, checkpoint: HubReference | Path, overrides: Mapping[str, str]) -> None:
        """Download what a pipeline.json lists, with the networks of `overrides` in place of its own."""
        references = files.read_references(config, overrides)
        for reference in references.networks.values():
            self.get_network(reference, checkpoint)
        for kind, name in references.encoders.items():
            self.get_encoder(name, kind, checkpoint)

    def get_network(self, reference: str, checkpoint: HubReference | Path) -> None:
        """Download a network's files from where the loader looks first: the checkpoint, a path, another repository."""
        stem = network_stem(reference)
        source: HubReference | None = None
        if isinstance(checkpoint, HubReference):
            if ".." not in Path(stem).parts and _has(checkpoint, f"{stem}.json"):
                source = HubReference(checkpoint.repository, stem, checkpoint.revision)
            folders = [Path()]
        else:
            folders = [checkpoint, Path()]
        if source is None:
            for folder in folders:
                local = folder / Path(stem).expanduser()
                if local.with_name(f"{local.name}.json").is_file():
                    check_file(local.with_name(f"{local.name}.safetensors"))
                    return
            source = HubReference.parse(reference)
            if source is None or not source.path:
                owner = checkpoint.repository if isinstance(checkpoint, HubReference) else checkpoint
                raise DownloadError(f"{owner} has no {stem}.json")
        for suffix in files.NETWORK_SUFFIXES:
            self.get(source, network_stem(source.path) + suffix, stem + suffix)

    def get_encoder(self, name: str, kind: EncoderKind, checkpoint: HubReference | Path) -> None:
        """Download an encoder's transformers directory, from the checkpoint or from a repository of its own."""
        if isinstance(checkpoint, HubReference):
            if _has(checkpoint, f"{name}/config.json"):
                self.get_encoder_files(checkpoint, kind, f"{name}/", f"{name}/")
                return
        elif (checkpoint / name / "config.json").is_file():
            check_file(checkpoint / name / "model.safetensors")
            return
        source = HubReference.parse(locate.HUB_NAMES.get(name, name))
        if source is None or source.path:
            raise DownloadError(f"the encoder {name!r} is neither in the checkpoint nor a Hugging Face id")
        self.get_encoder_files(source, kind, "", f"{name}/")

    def get_encoder_files(self, source: HubReference, kind: EncoderKind, folder: str = "", relative: str = "") -> None:
        """Download the files of an encoder from a folder of a repository into the folder `relative`."""
        names = list(files.ENCODER_FILES[kind])
        if "vocab.json" in names:
            names += [name for name in _OPTIONAL_TOKENIZER_FILES if _has(source, folder + name)]
        for name in names:
            self.get(source, folder + name, relative + name)

    def get_backbone(self) -> None:
        """Download the configuration of the scorer's backbone."""
        source = HubReference.parse(SCORER_BACKBONE)
        assert source is not None
        self.get(source, "config.json")

    def get(self, source: HubReference, path: str, relative: str | None = None) -> Path:
        """Download and check a file of a repository. Raises DownloadError, also if there is no such file."""
        file = hub.find_file(source, path)
        if file is None:
            pickles = "; pickled weights are not used" if path.endswith(".safetensors") else ""
            raise DownloadError(f"{source.repository} has no {path}{pickles}")
        target = check_file(self.store(file, path if relative is None else relative))
        self.report(str(file), target)
        return target


def _has(source: HubReference, path: str) -> bool:
    return hub.find_file(source, path) is not None
