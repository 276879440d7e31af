"""Checkpoints that are damaged or do not fit are refused, with the file and what is wrong."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.weights.files import read_json
from tests.support.checkpoint_copies import FLOW, copy_networks, edit, load


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_networks(tmp_path)


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
        (add, r"has tensor blocks\.9\.extra, which the network lacks \(1 such in all\)"),
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
        (lambda a: a["models"].update(slat_flow_model=3), "a network's path must be a string, not 3"),
        (lambda a: a.update(models=a["models"] | {"slat_flow_model": FLOW}), "slat_flow_model is a SparseStructureFl"),
        (lambda a: a.pop("slat_sampler"), "lacks the key 'slat_sampler'"),
        (lambda a: a["slat_sampler"]["params"].pop("cfg_interval"), "lacks the key 'cfg_interval'"),
        (lambda a: a["slat_sampler"]["params"].update(cfg_interval=0.5), "not iterable"),
        (lambda a: a["slat_sampler"]["params"].update(steps=0), "steps must be at least 1, not 0"),
        (lambda a: a["slat_sampler"]["params"].update(speed=9), "'speed'"),
        (lambda a: a.pop("slat_normalization"), "lacks the key 'slat_normalization'"),
        (lambda a: a["slat_normalization"].pop("std"), "lacks the key 'std'"),
        (lambda a: a["slat_normalization"].update(std=[1.0] * 3), "slat_normalization needs 8 values each of mean"),
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


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"])
def test_a_pickle_in_place_of_safetensors_is_refused_unread(copy: Path, suffix: str) -> None:
    (copy / f"{FLOW}.safetensors").unlink()
    path = copy / f"{FLOW}{suffix}"
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(CheckpointError, match=r"is a pickle.*convert its tensors to \S+\.safetensors") as caught:
        load(copy)
    assert str(caught.value).startswith(str(path))


def test_shapes_are_compared_before_anything_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.trellis import checkpoint

    opened = checkpoint.safe_open

    class Unreadable:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = opened(*arguments, **options)

        def __enter__(self) -> "Unreadable":
            return self

        def __exit__(self, *_: object) -> None: ...

        def __getattr__(self, name: str) -> Any:
            assert name != "get_tensor"
            return getattr(self.file, name)

    path = copy / f"{FLOW}.safetensors"
    tensors = load_file(path)
    reshape(tensors)
    save_file(tensors, path)
    monkeypatch.setattr(checkpoint, "safe_open", Unreadable)
    with pytest.raises(CheckpointError, match=r"out_layer\.bias has shape"):
        load(copy)
