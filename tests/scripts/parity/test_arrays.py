"""A value of any array or tensor that differs is noticed, and nothing is left out."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.trellis.checkpoint import build_network
from scripts.parity import main
from scripts.parity_checks.report import Report
from tests.support.golden_trellis import GOLDEN, SLIGHTLY, keep_only, spoil_array
from tests.support.paths import ROOT


def test_the_golden_data_passes_with_nothing_skipped(parity) -> None:
    code, lines, summary = parity(GOLDEN)
    assert code == 0
    assert list(summary) == ["worst", "n", "failed", "skipped"]
    assert (summary["failed"], summary["skipped"]) == ([], [])
    assert summary["n"] == len(lines) >= 88
    assert 0 < summary["worst"] < 4e-3
    assert len({line.split(": ", 1)[0] for line in lines if not line.startswith("manifest")}) >= 15
    assert not any("FAILED" in line for line in lines)


def test_every_array_of_the_golden_data_is_compared(parity) -> None:
    """All but inputs have a line of their own."""
    _, lines, _ = parity(GOLDEN)
    compared = {tuple(line.split(" ")[:2]) for line in lines}
    inputs = {"x", "t", "cond", "feats", "noise", "z", "sel", "t_in", "pos_in", "sp_coords", "sp_feats"}
    inputs |= {"conv_w", "conv_b"}
    for path in GOLDEN.glob("*.npz"):
        with np.load(path) as archive:
            for name in set(archive.files) - inputs:
                if name != "coords" or path.name == "ss_dec_forward.npz":
                    assert (f"{path.name}:", name) in compared


@pytest.mark.process
def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "scripts.parity", str(GOLDEN)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["failed"] == summary["skipped"] == []


@pytest.mark.parametrize("value", [SLIGHTLY, math.nan, math.inf, 1e30])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ss_flow_img_forward.npz", "y"),
        ("ss_dec_forward.npz", "logits"),
        ("slat_flow_img_forward.npz", "y"),
        ("slat_dec_gs_forward.npz", "net_out"),
        ("units.npz", "conv_out"),
    ],
)
def test_a_spoiled_result_is_noticed(parity, copy: Path, file: str, name: str, value: float | str) -> None:
    keep_only(copy, file)
    spoil_array(copy, file, name, value)
    code, _, summary = parity(copy)
    assert code == 1
    assert f"{file}: {name}" in summary["failed"]
    assert math.isfinite(summary["worst"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ss_flow_img_forward.npz", "tap_block0"),
        ("ss_flow_txt_forward.npz", "y"),
        ("ss_sampler.npz", "samples"),
        ("ss_sampler.npz", "pred_x_t"),
        ("ss_sampler.npz", "pred_x_0_last"),
        ("ss_sampler_other.npz", "samples_cfg"),
        ("ss_sampler_other.npz", "samples_plain"),
        ("ss_dec_of_sampler.npz", "logits_every7"),
        ("slat_sampler.npz", "samples"),
        ("slat_sampler.npz", "pred_x_t"),
        ("slat_sampler.npz", "slat"),
        ("slat_flow_txt_forward.npz", "y"),
        ("slat_dec_gs_forward.npz", "xyz_raw"),
        ("slat_dec_gs_forward.npz", "rotation_raw"),
        ("slat_dec_gs_forward.npz", "get_opacity"),
        ("slat_dec_gs_batch2.npz", "net_out_sel"),
        ("units.npz", "t_emb256"),
        ("units.npz", "pos_emb_1024"),
        ("units.npz", "tseq_25_3"),
        ("units.npz", "hammersley32"),
        ("units.npz", "down_feats"),
        ("units.npz", "up_feats"),
    ],
)
def test_a_slightly_spoiled_value_of_any_kind_is_noticed(parity, copy: Path, file: str, name: str) -> None:
    keep_only(copy, file)
    spoil_array(copy, file, name, SLIGHTLY)
    code, _, summary = parity(copy)
    assert (code, summary["failed"]) == (1, [f"{file}: {name}"])


def test_half_precision_has_a_bound_of_its_own(parity, copy: Path) -> None:
    file = "ss_flow_img_forward.npz"
    keep_only(copy, file)
    with np.load(GOLDEN / file) as archive:
        half = archive["y_fp16mode"]
    largest = float(np.abs(half).max())
    spoil_array(copy, file, "y_fp16mode", float(half.flat[0]) + 1e-4 * largest, index=0)
    assert parity(copy)[0] == 0
    spoil_array(copy, file, "y_fp16mode", float(half.flat[0]) + 8e-3 * largest, index=0)
    code, _, summary = parity(copy)
    assert (code, summary["failed"]) == (1, [f"{file}: y_fp16mode"])


@pytest.mark.parametrize(
    ("file", "name", "index", "value"),
    [
        ("ss_dec_forward.npz", "coords", 400, 9),
        ("ss_dec_forward.npz", "coords", 401, 9999),
        ("ss_dec_forward.npz", "coords", 0, 5),
        ("ss_dec_of_sampler.npz", "bits", 1000, 0),
        ("slat_flow_img_forward.npz", "coords", 41, 60),
        ("slat_flow_img_forward.npz", "coords", 0, 7),
        ("slat_flow_img_forward.npz", "down_coords", 5, 31),
        ("slat_dec_gs_forward.npz", "coords", 6, 30),
        ("slat_dec_gs_batch2.npz", "sel", 3, 447),
        ("slat_dec_gs_batch2.npz", "sel", 3, 9999),
        ("units.npz", "win_id_shift4", 77, 3),
        ("units.npz", "win_len_shift0", 7, 99),
        ("units.npz", "patchify2", 30, 0),
        ("units.npz", "pixel_shuffle2", 30, 0),
        ("units.npz", "down_coords", 30, 0),
    ],
)
def test_a_spoiled_number_is_noticed(parity, copy: Path, file: str, name: str, index: int, value: int) -> None:
    with np.load(GOLDEN / file) as archive:
        assert archive[name].flat[index] != value
    keep_only(copy, file)
    spoil_array(copy, file, name, value, index)
    code, _, summary = parity(copy)
    assert code == 1
    assert all(line.startswith(file) for line in summary["failed"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ss_flow_img_forward.npz", "x"),
        ("ss_flow_img_forward.npz", "t"),
        ("ss_flow_img_forward.npz", "cond"),
        ("ss_sampler.npz", "noise"),
        ("slat_flow_img_forward.npz", "feats"),
        ("ss_dec_forward.npz", "z"),
        ("units.npz", "conv_w"),
        ("units.npz", "sp_feats"),
        ("units.npz", "t_in"),
        ("units.npz", "pos_in"),
    ],
)
def test_a_spoiled_input_is_noticed(parity, copy: Path, file: str, name: str) -> None:
    keep_only(copy, file)
    spoil_array(copy, file, name, 3, index=0)
    assert parity(copy)[0] == 1


@pytest.mark.parametrize(
    ("weights", "tensor", "file"),
    [
        ("ss_flow_img", "blocks.1.adaLN_modulation.1.weight", "ss_flow_img_forward.npz"),
        ("ss_flow_img", "pos_emb", "ss_sampler.npz"),
        ("ss_flow_txt", "blocks.0.cross_attn.k_rms_norm.gamma", "ss_flow_txt_forward.npz"),
        ("ss_dec", "blocks.2.conv.weight", "ss_dec_forward.npz"),
        ("slat_flow_img", "out_blocks.0.skip_connection.weight", "slat_sampler.npz"),
        ("slat_flow_txt", "input_blocks.1.conv2.conv.weight", "slat_flow_txt_forward.npz"),
        ("slat_dec_gs", "offset_perturbation", "slat_dec_gs_forward.npz"),
        ("slat_dec_gs", "blocks.2.attn.to_qkv.weight", "slat_dec_gs_batch2.npz"),
    ],
)
def test_a_spoiled_weight_is_noticed(parity, copy: Path, weights: str, tensor: str, file: str) -> None:
    keep_only(copy, file)
    tensors = load_file(GOLDEN / f"{weights}.safetensors")
    flat = tensors[tensor].view(-1)
    flat[len(flat) // 2] += 0.1
    (copy / f"{weights}.safetensors").unlink()
    save_file(tensors, copy / f"{weights}.safetensors")
    assert parity(copy)[0] == 1


def test_what_no_check_knows_is_listed_as_skipped(parity, copy: Path) -> None:
    keep_only(copy, "ss_flow_img_forward.npz", "units.npz")
    for file, name in (("ss_flow_img_forward.npz", "tap_middle"), ("units.npz", "novelty")):
        with np.load(GOLDEN / file) as archive:
            arrays = {key: archive[key] for key in archive.files}
        (copy / file).unlink()
        np.savez(copy / file, **arrays, **{name: np.zeros(3)})
    (copy / "notes.bin").write_bytes(b"")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["notes.bin"] = {}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, _, summary = parity(copy)
    assert code == 0
    assert summary["skipped"] == ["ss_flow_img_forward.npz: tap_middle", "units.npz: novelty", "notes.bin"]


def test_a_directory_of_other_sizes_and_names_is_compared(parity, tmp_path: Path) -> None:
    """Models and files are those of the manifest, whatever they are called."""
    args = {"resolution": 4, "in_channels": 3, "out_channels": 3, "model_channels": 24, "cond_channels": 10}
    args |= {"num_blocks": 1, "num_heads": 2, "patch_size": 2, "qk_rms_norm": True, "qk_rms_norm_cross": True}
    network = type(build_network("SparseStructureFlowModel", args))(**args).eval()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    generator = torch.Generator().manual_seed(0)
    x, cond = (torch.randn(shape, generator=generator) for shape in ((1, 3, 4, 4, 4), (1, 5, 10)))
    with torch.no_grad():
        y = network(x, torch.tensor([300.0]), cond)
    arrays = {"x": x.numpy(), "t": np.float32([300]), "cond": cond.numpy(), "y": y.numpy()}
    np.savez(tmp_path / "odd.npz", **arrays)
    spec = {"class": "ElasticSparseStructureFlowModel", "args": args, "weights": "w.safetensors"}
    manifest = {"models": {"mine": spec}, "files": {"w.safetensors": {}, "odd.npz": {"note": "of mine"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code, _, summary = parity(tmp_path)
    assert (code, summary) == (0, {"worst": summary["worst"], "n": 1, "failed": [], "skipped": []})


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}"])
def test_a_directory_that_cannot_be_read_is_code_2(
    tmp_path: Path, manifest: str | None, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    monkeypatch.setattr(sys, "argv", ["parity", str(tmp_path)])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(str(tmp_path))


def test_comparisons_are_exact_about_shapes_and_empty_arrays(capsys) -> None:
    report = Report()
    report.compare_exactly("same and empty", np.zeros((0, 4)), np.zeros((0, 4)))
    report.compare("same and empty", np.zeros((0, 4)), np.zeros((0, 4)))
    report.compare("equal infinities", [np.inf, 1.0], [np.inf, 1.0])
    assert report.failed == []
    report.compare_exactly("shape", np.zeros((2, 3)), np.zeros((3, 2)))
    report.compare("shape", np.zeros((1, 3)), np.zeros(3))
    report.compare("other infinity", [np.inf, 1.0], [-np.inf, 1.0])
    report.compare("all zero", [1e-4], [0.0])
    report.compare("not a number", [np.nan], [np.nan])
    assert len(report.failed) == 5
    assert json.loads(json.dumps(report.summary()))["n"] == 8
