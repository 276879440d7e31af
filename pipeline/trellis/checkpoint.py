"""Reading a checkpoint laid out as upstream publishes it: pipeline.json and pairs of ckpts/NAME.json, .safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.sampling import SamplerParams
from pipeline.trellis.gaussian_decoder import SLatGaussianDecoder
from pipeline.trellis.latent_flow import SLatFlowModel
from pipeline.trellis.structure_decoder import SparseStructureDecoder
from pipeline.trellis.structure_flow import SparseStructureFlowModel

Network = SparseStructureFlowModel | SparseStructureDecoder | SLatFlowModel | SLatGaussianDecoder
NETWORK_CLASSES: Mapping[str, type[Network]] = {
    network.__name__: network
    for network in (SparseStructureFlowModel, SparseStructureDecoder, SLatFlowModel, SLatGaussianDecoder)
}
# Keys of pipeline.json's "models" that the gaussian path needs; mesh and radiance-field decoders are left alone.
_ROLES: Mapping[str, type[Network]] = {
    "sparse_structure_flow_model": SparseStructureFlowModel,
    "sparse_structure_decoder": SparseStructureDecoder,
    "slat_flow_model": SLatFlowModel,
    "slat_decoder_gs": SLatGaussianDecoder,
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The four networks, the latents' statistics and the settings that a checkpoint recommends.

    latent_mean, latent_std: [8] float32 on the networks' device; latents = sample * std + mean.
    image_cond_model: the image encoder's name as pipeline.json has it, "" if there is none.
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
    image_cond_model: str


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError if the file is missing or not a JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def build_network(class_name: str, args: Mapping[str, Any]) -> Network:
    """A network without weights (on the meta device); accepts upstream's `Elastic` class names.

    Raises ValueError on an unknown class or arguments it does not support.
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
    """Give a network the tensors of a safetensors file, cast to the network's own dtypes, on `device`.

    Raises CheckpointError naming file and tensor if one is missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            found = set(file.keys())
            if missing := sorted(wanted.keys() - found):
                raise CheckpointError(f"{path} lacks tensor {missing[0]} ({len(missing)} missing in all)")
            if unexpected := sorted(found - wanted.keys()):
                raise CheckpointError(
                    f"{path} has tensor {unexpected[0]}, which the network does not ({len(unexpected)} such in all)"
                )
            tensors = {}
            for name, target in wanted.items():
                tensor = file.get_tensor(name)
                if tensor.shape != target.shape:
                    raise CheckpointError(
                        f"{path}: tensor {name} has shape {list(tensor.shape)}, not {list(target.shape)}"
                    )
                tensors[name] = tensor.to(target.dtype)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None
    network.load_state_dict(tensors, assign=True)


def load_network(stem: Path, device: torch.device, dtype: torch.dtype) -> Network:
    """The network of `stem`.json and `stem`.safetensors, its blocks in `dtype`, in evaluation mode."""
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


def _sampler_params(config: Mapping[str, Any], key: str) -> SamplerParams:
    params = config[key]["params"]
    return SamplerParams(**{**params, "cfg_interval": tuple(params["cfg_interval"])})


def load_checkpoint(directory: Path, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """The networks of `directory`/pipeline.json. Raises CheckpointError naming the file and what is wrong with it."""
    path = directory / "pipeline.json"
    config = read_json(path)
    try:
        args = config["args"]
        stems = {role: directory / args["models"][role] for role in _ROLES}
        mean, std = (
            torch.tensor(args["slat_normalization"][key], dtype=torch.float32, device=device) for key in ("mean", "std")
        )
        structure_params = _sampler_params(args, "sparse_structure_sampler")
        latent_params = _sampler_params(args, "slat_sampler")
    except KeyError as missing:
        raise CheckpointError(f"{path} lacks the key {missing}") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    networks = {role: load_network(stem, device, dtype) for role, stem in stems.items()}
    for role, network in networks.items():
        if not isinstance(network, _ROLES[role]):
            raise CheckpointError(f"{path}: {role} is a {type(network).__name__}, not a {_ROLES[role].__name__}")
    latent_flow = cast(SLatFlowModel, networks["slat_flow_model"])
    if not mean.shape == std.shape == (latent_flow.in_channels,):
        raise CheckpointError(f"{path}: slat_normalization needs {latent_flow.in_channels} means and as many std")
    return Checkpoint(
        directory=directory,
        structure_flow=cast(SparseStructureFlowModel, networks["sparse_structure_flow_model"]),
        structure_decoder=cast(SparseStructureDecoder, networks["sparse_structure_decoder"]),
        latent_flow=latent_flow,
        gaussian_decoder=cast(SLatGaussianDecoder, networks["slat_decoder_gs"]),
        latent_mean=mean,
        latent_std=std,
        sparse_structure_sampler_params=structure_params,
        slat_sampler_params=latent_params,
        image_cond_model=args.get("image_cond_model", ""),
    )
