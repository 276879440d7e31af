"""The whole script takes a while, so that its fits are left out here: they change numbers, not the form."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scripts import make_tiny_checkpoint as script

ROOT = Path(__file__).resolve().parent.parent.parent
COMMITTED = ROOT / "pipeline" / "checkpoints" / "tiny"


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "fit_structure_flow", lambda flow, generator: None)
    monkeypatch.setattr(script, "sample_structures", lambda flow, count, generator: None)
    monkeypatch.setattr(script, "fit_structure_decoder", lambda decoder, latents: None)


def files(directory: Path) -> dict[str, Path]:
    return {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}


def tensors(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        return {key: (part.get_shape(), part.get_dtype()) for key, part in slices.items()}


def test_it_makes_files_of_the_committed_form_and_the_same_each_time(unfitted: None, tmp_path: Path) -> None:
    for name in ("a", "b"):
        script.make_image_checkpoint(tmp_path / name)
    made, again, committed = files(tmp_path / "a"), files(tmp_path / "b"), files(COMMITTED)
    assert made.keys() == committed.keys()
    for name, path in made.items():
        assert path.read_bytes() == again[name].read_bytes()
        if name.endswith(".safetensors"):
            assert tensors(path) == tensors(committed[name])
        else:
            ours, theirs = json.loads(path.read_text()), json.loads(committed[name].read_text())
            ours.pop("transformers_version", None)
            theirs.pop("transformers_version", None)
            assert ours == theirs


def test_a_checkpoint_for_sentences_differs_where_upstream_s_does(tiny_text_checkpoint: Path, tmp_path: Path) -> None:
    script.make_text_checkpoint(tmp_path)
    made, again = files(tiny_text_checkpoint), files(tmp_path)
    assert made.keys() == again.keys()
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in made.items())
    structure = tensors(tiny_text_checkpoint / "ckpts" / "ss_flow_txt_tiny.safetensors")
    latents = tensors(tiny_text_checkpoint / "ckpts" / "slat_flow_txt_tiny.safetensors")
    norm = "blocks.0.cross_attn.q_rms_norm.gamma"
    assert norm in structure
    assert norm not in latents
    assert len([name for name in latents if name.endswith("conv1.conv.weight")]) == 6
    assert structure["blocks.0.cross_attn.to_kv.weight"][0][1] == script.TEXT_WIDTH != script.WIDTH


def test_the_committed_checkpoint_is_small_and_stored_as_upstream_stores_its_own() -> None:
    assert sum(path.stat().st_size for path in files(COMMITTED).values()) < 10e6
    dtypes = tensors(COMMITTED / "ckpts" / "slat_flow_tiny.safetensors")
    assert dtypes["blocks.0.mlp.mlp.0.weight"][1] == "F16"
    assert dtypes["blocks.0.norm2.weight"][1] == dtypes["input_layer.weight"][1] == "F32"


def test_a_head_is_fitted_by_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, generator=generator)
    weight, bias = torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator)
    layer = torch.nn.Linear(6, 4)
    script.fit_head(layer, features, features @ weight.T + bias)
    assert torch.allclose(layer.weight, weight, atol=1e-4)
    assert torch.allclose(layer.bias, bias, atol=1e-4)


def test_closeness_is_largest_in_the_middle() -> None:
    closeness = script.closeness(16)
    assert closeness.mean().item() == pytest.approx(0, abs=1e-5)
    assert closeness.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(closeness.flip(0), closeness)
    assert torch.equal(closeness.transpose(0, 2), closeness)
    assert (closeness == closeness.max()).nonzero().float().mean().item() == 7.5


def test_a_command_line_without_a_directory_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["make_tiny_checkpoint.py"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    assert "directory" in capsys.readouterr().err
