"""Check, without a network, whether weights are on this machine, complete and readable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError, PipelineError
from pipeline.weights import files, locate
from pipeline.weights.alexnet import check_alexnet, is_alexnet
from pipeline.weights.background_models import BACKGROUND_MODELS, check_model_file
from pipeline.weights.files import MODEL_INDEX, OPEN_CLIP_CONFIG, PIPELINE_FILE, EncoderKind, check_file
from pipeline.weights.hub_cache import DamagedCache
from pipeline.weights.locate import SCORER_FILE, HubReference


@dataclass(frozen=True)
class WeightsCheck:
    """One part of some weights, where it is, and what is wrong with it ("" if nothing is)."""

    name: str
    path: Path | None = None
    problem: str = ""


def check_weights(reference: str, overrides: Mapping[str, str] | None = None) -> list[WeightsCheck]:
    """Check the parts of what a reference names: networks and encoders of a checkpoint, or the one thing that it is.

    The reference is as in `download_weights`, or the name of a background model. `overrides` replace networks of a
    checkpoint by role.
    """
    try:
        return _check_parts(reference, overrides or {})
    except DamagedCache as error:
        return [WeightsCheck("weights", problem=str(error))]


def _check_parts(reference: str, overrides: Mapping[str, str]) -> list[WeightsCheck]:
    source = HubReference.parse(reference)
    if reference in BACKGROUND_MODELS:
        return [_check("background model", check_model_file, reference)]
    if is_alexnet(reference):
        return [_check("AlexNet", check_alexnet, reference)]
    if source is not None and source.path and not Path(reference).expanduser().is_dir():
        return [_check("network", _check_network, reference, Path())]
    if directory := _locate(reference, PIPELINE_FILE):
        return _check_checkpoint(directory, overrides)
    if _locate(reference, SCORER_FILE):
        return [_check("scorer", _check_scorer, reference)]
    if directory := _locate(reference, MODEL_INDEX):
        return [_check("text-to-image model", _check_text_to_image, directory)]
    if directory := _locate(reference, OPEN_CLIP_CONFIG):
        return [_check("CLIP", _check_open_clip, directory)]
    if directory := _locate(reference, "config.json"):
        is_text = (directory / "vocab.json").is_file()
        return [_check("encoder", _check_encoder, str(directory), "text_cond_model" if is_text else "image_cond_model")]
    return [_check("checkpoint", locate.locate, reference, PIPELINE_FILE)]


def _check(name: str, check: Callable[..., Path], *arguments: object) -> WeightsCheck:
    try:
        return WeightsCheck(name, check(*arguments))
    except PipelineError as error:
        return WeightsCheck(name, problem=str(error))


def _locate(reference: str, marker: str) -> Path | None:
    try:
        return locate.locate(reference, marker)
    except DamagedCache:
        raise
    except PipelineError:
        return None


def _check_checkpoint(directory: Path, overrides: Mapping[str, str]) -> list[WeightsCheck]:
    try:
        references = files.read_references(directory / PIPELINE_FILE, overrides)
    except CheckpointError as error:
        return [WeightsCheck("checkpoint", problem=str(error))]
    return [
        *(_check(role, _check_network, network, directory) for role, network in references.networks.items()),
        *(_check(kind, _check_encoder, name, kind, directory) for kind, name in references.encoders.items()),
    ]


def _check_network(reference: str, checkpoint: Path) -> Path:
    stem = locate.locate_network(reference, checkpoint)
    if not stem.with_name(f"{stem.name}.safetensors").is_file():
        locate.refuse_pickle(stem)
    for suffix in files.NETWORK_SUFFIXES:
        check_file(stem.with_name(stem.name + suffix))
    return stem


def _check_encoder(name: str, kind: EncoderKind, checkpoint: Path = Path()) -> Path:
    directory = locate.locate_encoder(name, kind, checkpoint)
    for file in files.ENCODER_FILES[kind]:
        check_file(directory / file)
    return directory


def _check_scorer(reference: str) -> Path:
    weights, config = locate.locate_scorer(reference)
    check_file(config / "config.json")
    return check_file(weights)


def _check_open_clip(directory: Path) -> Path:
    files.get_open_clip_files(lambda path: (directory / path).exists(), lambda path: check_file(directory / path))
    return directory


def _check_text_to_image(directory: Path) -> Path:
    files.check_model(directory)
    return directory
