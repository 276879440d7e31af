import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.sampling import SamplerParams
from pipeline.trellis.checkpoint import load_checkpoint, load_network, read_json
from pipeline.weights import EMBEDDED, locate

EMBEDDED_DIRECTORY = locate(EMBEDDED, "pipeline.json")
PIPELINE = json.loads((EMBEDDED_DIRECTORY / "pipeline.json").read_text())
MODELS = PIPELINE["args"]["models"]
CPU = torch.device("cpu")
FLOW = MODELS["sparse_structure_flow_model"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of its own, without the image encoder."""
    shutil.copytree(EMBEDDED_DIRECTORY / "ckpts", tmp_path / "ckpts")
    shutil.copy(EMBEDDED_DIRECTORY / "pipeline.json", tmp_path)
    return tmp_path


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_checkpoint(directory, CPU, dtype)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_embedded_checkpoint_holds_what_pipeline_json_says() -> None:
    checkpoint = load(EMBEDDED_DIRECTORY)
    args = PIPELINE["args"]
    for role in ("sparse_structure_sampler", "slat_sampler"):
        params = args[role]["params"]
        expected = SamplerParams(**{**params, "cfg_interval": tuple(params["cfg_interval"])})
        assert getattr(checkpoint, f"{role}_params") == expected
    assert checkpoint.latent_mean.tolist() == pytest.approx(args["slat_normalization"]["mean"])
    assert checkpoint.latent_std.tolist() == pytest.approx(args["slat_normalization"]["std"])
    assert checkpoint.image_cond_model == args["image_cond_model"]
    assert checkpoint.directory == EMBEDDED_DIRECTORY
    networks = (
        (checkpoint.structure_flow, "sparse_structure_flow_model"),
        (checkpoint.structure_decoder, "sparse_structure_decoder"),
        (checkpoint.latent_flow, "slat_flow_model"),
        (checkpoint.gaussian_decoder, "slat_decoder_gs"),
    )
    for network, role in networks:
        stored = load_file(EMBEDDED_DIRECTORY / f"{MODELS[role]}.safetensors")
        state = network.state_dict()
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[name].float(), stored[name].float()) for name in stored)
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_blocks_take_the_precision_asked_for_and_the_rest_stays_float32(dtype: torch.dtype) -> None:
    flow = load_network(EMBEDDED_DIRECTORY / FLOW, CPU, dtype)
    dtypes = {name: tensor.dtype for name, tensor in flow.state_dict().items()}
    assert dtypes["blocks.0.mlp.mlp.0.weight"] == dtype
    for name in ("blocks.0.norm2.weight", "blocks.0.self_attn.q_rms_norm.gamma", "input_layer.weight", "pos_emb"):
        assert dtypes[name] == torch.float32


def test_names_with_and_without_elastic_are_the_same_class(copy: Path) -> None:
    plain = type(load_network(copy / MODELS["slat_flow_model"], CPU, torch.float32))
    path = copy / f"{MODELS['slat_flow_model']}.json"
    name = json.loads(path.read_text())["name"]
    other = name.removeprefix("Elastic") if name.startswith("Elastic") else f"Elastic{name}"
    edit(path, lambda c: c.update(name=other))
    assert type(load_network(copy / MODELS["slat_flow_model"], CPU, torch.float32)) is plain


def test_other_decoders_are_left_alone(copy: Path) -> None:
    edit(copy / "pipeline.json", lambda c: c["args"]["models"].update(slat_decoder_mesh="ckpts/nowhere"))
    assert load(copy).image_cond_model


def test_means_may_be_whole_numbers(copy: Path) -> None:
    channels = load(copy).latent_flow.in_channels
    edit(copy / "pipeline.json", lambda c: c["args"]["slat_normalization"].update(mean=[1] * channels))
    assert load(copy).latent_mean.dtype == torch.float32


def test_without_an_image_encoder_its_name_is_empty(copy: Path) -> None:
    edit(copy / "pipeline.json", lambda c: c["args"].pop("image_cond_model"))
    assert load(copy).image_cond_model == ""


def drop(tensors: dict[str, Any]) -> None:
    del tensors["blocks.1.mlp.mlp.2.bias"]


def drop_two(tensors: dict[str, Any]) -> None:
    drop(tensors)
    del tensors["input_layer.weight"]


def add(tensors: dict[str, Any]) -> None:
    tensors["blocks.9.extra"] = torch.zeros(3)


def reshape(tensors: dict[str, Any]) -> None:
    tensors["out_layer.bias"] = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lacks tensor blocks\.1\.mlp\.mlp\.2\.bias \(1 missing in all\)"),
        (drop_two, r"lacks tensor blocks\.1\.mlp\.mlp\.2\.bias \(2 missing in all\)"),
        (add, r"has tensor blocks\.9\.extra, which the network does not \(1 such in all\)"),
        (reshape, r"tensor out_layer\.bias has shape \[2, 3\], not \[\d+\]"),
    ],
)
def test_weights_that_do_not_fit_are_named_by_file_and_tensor(
    copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = copy / f"{FLOW}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert str(path) in str(caught.value)


def pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path)


class Exploit:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("exec('raise AssertionError')",))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "is damaged or no safetensors file"),
        (lambda p: p.write_bytes(p.read_bytes()[:50]), "is damaged or no safetensors file"),
        (lambda p: p.write_bytes(b""), "is damaged or no safetensors file"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "is damaged or no safetensors file"),
        (pickled, "is damaged or no safetensors file"),
        (lambda p: p.write_bytes(pickle.dumps(Exploit())), "is damaged or no safetensors file"),
        (lambda p: p.unlink(), "is missing"),
    ],
)
def test_a_damaged_or_missing_file_is_named(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    path = copy / f"{FLOW}.safetensors"
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(name="SLatMeshDecoder"), "unknown class 'SLatMeshDecoder'; known are"),
        (lambda c: c.update(name=None), "unknown class None"),
        (lambda c: c.pop("name"), "lacks the key 'name'"),
        (lambda c: c.pop("args"), "lacks the key 'args'"),
        (lambda c: c.update(args=[1, 2]), "does not take these arguments"),
        (lambda c: c["args"].update(depth=3), "does not take these arguments: .*'depth'"),
        (lambda c: c["args"].pop("resolution"), "does not take these arguments: .*'resolution'"),
        (lambda c: c["args"].update(model_channels="wide"), "does not take these arguments"),
        (lambda c: c["args"].update(patch_size=0), "does not take these arguments"),
        (lambda c: c["args"].update(pe_mode="rope"), "only pe_mode 'ape'"),
    ],
)
def test_a_network_s_json_is_checked(copy: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = copy / f"{FLOW}.json"
    edit(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("models"), "lacks the key 'models'"),
        (lambda a: a["models"].pop("slat_flow_model"), "lacks the key 'slat_flow_model'"),
        (lambda a: a["models"].update(slat_flow_model=3), "unsupported operand"),
        (lambda a: a.update(models=a["models"] | {"slat_flow_model": FLOW}), "slat_flow_model is a SparseStructureFl"),
        (lambda a: a.pop("slat_sampler"), "lacks the key 'slat_sampler'"),
        (lambda a: a["slat_sampler"]["params"].pop("cfg_interval"), "lacks the key 'cfg_interval'"),
        (lambda a: a["slat_sampler"]["params"].update(cfg_interval=0.5), "not iterable"),
        (lambda a: a["slat_sampler"]["params"].update(steps=0), "steps must be at least 1, not 0"),
        (lambda a: a["slat_sampler"]["params"].update(speed=9), "'speed'"),
        (lambda a: a.pop("slat_normalization"), "lacks the key 'slat_normalization'"),
        (lambda a: a["slat_normalization"].pop("std"), "lacks the key 'std'"),
        (lambda a: a["slat_normalization"].update(std=[1.0] * 3), "slat_normalization needs 8 means and as many"),
        (lambda a: a["slat_normalization"].update(mean=["a"] * 8), "not a|invalid data type|str"),
    ],
)
def test_pipeline_json_is_checked(copy: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(copy / "pipeline.json", lambda c: change(c["args"]))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert str(copy / "pipeline.json") in str(caught.value)


@pytest.mark.parametrize("name", ["pipeline.json", f"{FLOW}.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read: Expecting property name"),
        (b"", "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[1]", "is not a JSON object"),
        (None, "is missing"),
    ],
)
def test_json_that_cannot_be_read_is_named(copy: Path, name: str, content: bytes | None, message: str) -> None:
    path = copy / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert str(caught.value).startswith(str(path))


def test_a_directory_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)


def test_pipeline_json_without_args_names_them(copy: Path) -> None:
    (copy / "pipeline.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"pipeline\.json lacks the key 'args'"):
        load(copy)
