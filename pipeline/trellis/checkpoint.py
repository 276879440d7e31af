"""Loading of checkpoints in upstream's layout: pipeline.json and pairs of ckpts/NAME.json and NAME.safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.params import SamplerParams
from pipeline.trellis import SLatFlowModel, SLatGaussianDecoder, SparseStructureDecoder, SparseStructureFlowModel
from pipeline.weights.files import EncoderKind, read_json, read_references
from pipeline.weights.hub_cache import cure, describe_missing
from pipeline.weights.locate import locate_encoder, locate_network, refuse_pickle

Network = SparseStructureFlowModel | SparseStructureDecoder | SLatFlowModel | SLatGaussianDecoder
NETWORK_CLASSES: Mapping[str, type[Network]] = {
    network.__name__: network
    for network in (SparseStructureFlowModel, SparseStructureDecoder, SLatFlowModel, SLatGaussianDecoder)
}
SpecificNetwork = TypeVar("SpecificNetwork", bound=Network)
# Networks by their two files (device and inode number, which are independent of the path), device and precision.
LoadedNetworks = dict[tuple[Any, ...], Network]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint: four networks, the statistics of the latents and recommended sampler settings.

    latent_mean, latent_std: [8] float32 on the networks' device; latents = sample * std + mean.
    cond_channels: width of the tokens that both flows are conditioned on.
    encoders: the names of the encoders in pipeline.json.
    """

    directory: Path
    structure_flow: SparseStructureFlowModel
    structure_decoder: SparseStructureDecoder
    latent_flow: SLatFlowModel
    gaussian_decoder: SLatGaussianDecoder
    latent_mean: Tensor
    latent_std: Tensor
    sparse_structure_sampler_params: SamplerParams
    slat_sampler_params: SamplerParams
    cond_channels: int
    encoders: Mapping[EncoderKind, str]

    def locate_encoder(self, kind: EncoderKind) -> Path:
        """Return the transformers directory of an encoder, see pipeline.weights.locate.locate_encoder."""
        return locate_encoder(self.encoders.get(kind, ""), kind, self.directory)


def build_network(class_name: str, args: Mapping[str, Any]) -> Network:
    """Build a network without weights (on the meta device); upstream's `Elastic` class names are accepted.

    Raises ValueError if the class is unknown or does not support the arguments.
    """
    network_class = NETWORK_CLASSES.get(str(class_name).removeprefix("Elastic"))
    if network_class is None:
        raise ValueError(f"unknown class {class_name!r}; known are {', '.join(NETWORK_CLASSES)}")
    try:
        with torch.device("meta"):
            return network_class(**args)
    except (TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{class_name} does not take these arguments: {error}") from None


def load_weights(network: nn.Module, path: Path, device: torch.device) -> None:
    """Load the tensors of a safetensors file into a network, in the dtypes of the network, on `device`.

    Raises CheckpointError naming file and tensor if a tensor is missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            present = set(file.keys())
            if missing := sorted(expected.keys() - present):
                raise CheckpointError(f"{path} lacks tensor {missing[0]} ({len(missing)} missing in all)")
            if unexpected := sorted(present - expected.keys()):
                raise CheckpointError(
                    f"{path} has tensor {unexpected[0]}, which the network lacks ({len(unexpected)} such in all)"
                )
            for name, target in expected.items():
                shape = file.get_slice(name).get_shape()
                if shape != list(target.shape):
                    raise CheckpointError(f"{path}: tensor {name} has shape {shape}, not {list(target.shape)}")
            tensors = {name: file.get_tensor(name).to(target.dtype) for name, target in expected.items()}
    except FileNotFoundError:
        refuse_pickle(path.with_name(path.name.removesuffix(".safetensors")))
        raise CheckpointError(describe_missing(path)) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}{cure(path)}") from None
    network.load_state_dict(tensors, assign=True)


def load_network(stem: Path, device: torch.device, dtype: torch.dtype) -> Network:
    """Load the network of `stem`.json and `stem`.safetensors, with blocks in `dtype`, in evaluation mode."""
    config_path = stem.with_name(stem.name + ".json")
    config = read_json(config_path)
    try:
        network = build_network(config["name"], config["args"])
    except KeyError as missing:
        raise CheckpointError(f"{config_path} lacks the key {missing}") from None
    except ValueError as error:
        raise CheckpointError(f"{config_path}: {error}") from None
    network.to_precision(dtype)
    load_weights(network, stem.with_name(stem.name + ".safetensors"), device)
    return network.eval().requires_grad_(False)


def _shared_network(stem: Path, device: torch.device, dtype: torch.dtype, loaded: LoadedNetworks) -> Network:
    try:
        files = [stem.with_name(stem.name + suffix).stat() for suffix in (".json", ".safetensors")]
    except OSError:
        return load_network(stem, device, dtype)  # raises an error that names the missing file
    key = (*((file.st_dev, file.st_ino) for file in files), device, dtype)
    if key not in loaded:
        loaded[key] = load_network(stem, device, dtype)
    return loaded[key]


def _cond_channels(flow: nn.Module) -> int:
    return flow.get_parameter("blocks.0.cross_attn.to_kv.weight").shape[1]


def load_checkpoint(
    directory: Path, device: torch.device, dtype: torch.dtype, *,
    overrides: Mapping[str, str] = MappingProxyType({}), loaded: LoadedNetworks | None = None,
) -> Checkpoint:  # fmt: skip
    """Load the networks of `directory`/pipeline.json.

    overrides: networks that replace those of the checkpoint, by their key in "models"; see `locate_network`.
    loaded: networks loaded before, which checkpoints that share files reuse; those loaded here are added.
    Raises CheckpointError naming the file and what is wrong with it.
    """
    path = directory / "pipeline.json"
    references = read_references(path, overrides)
    args, names = references.args, references.networks
    loaded = {} if loaded is None else loaded
    if unknown := sorted(overrides.keys() - names.keys()):
        raise CheckpointError(f"there is no network {unknown[0]} to override; choose from {', '.join(names)}")
    try:
        mean, std = (
            torch.tensor(args["slat_normalization"][key], dtype=torch.float32, device=device) for key in ("mean", "std")
        )
        structure_params, latent_params = (
            SamplerParams(**{**params, "cfg_interval": tuple(params["cfg_interval"])})
            for params in (args[sampler]["params"] for sampler in ("sparse_structure_sampler", "slat_sampler"))
        )
    except KeyError as missing:
        raise CheckpointError(f"{path} lacks the key {missing}") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None

    def load(role: str, network_class: type[SpecificNetwork]) -> SpecificNetwork:
        stem = locate_network(names[role], directory)
        network = _shared_network(stem, device, dtype, loaded)
        if not isinstance(network, network_class):
            source = "overrides" if role in overrides else path
            raise CheckpointError(
                f"{source}: {role} is a {type(network).__name__}, not a {network_class.__name__}: {stem}.json"
            )
        return network

    structure_flow = load("sparse_structure_flow_model", SparseStructureFlowModel)
    structure_decoder = load("sparse_structure_decoder", SparseStructureDecoder)
    latent_flow = load("slat_flow_model", SLatFlowModel)
    gaussian_decoder = load("slat_decoder_gs", SLatGaussianDecoder)
    if not mean.shape == std.shape == (latent_flow.in_channels,):
        raise CheckpointError(f"{path}: slat_normalization needs {latent_flow.in_channels} values each of mean and std")
    width = _cond_channels(latent_flow)
    if _cond_channels(structure_flow) != width:
        raise CheckpointError(
            f"the flows {names['sparse_structure_flow_model']} and {names['slat_flow_model']} take "
            "conditions of different widths: they belong to checkpoints of different kinds"
        )
    networks = structure_flow, structure_decoder, latent_flow, gaussian_decoder
    return Checkpoint(directory, *networks, mean, std, structure_params, latent_params, width, references.encoders)
