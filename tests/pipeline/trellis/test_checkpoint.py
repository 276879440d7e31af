"""Checkpoints are loaded as their files say, from several places."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.params import SamplerParams
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint, load_network
from tests.support.checkpoint_copies import CPU, EMBEDDED_DIRECTORY, FLOW, MODELS, PIPELINE, copy_networks, edit, load


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_networks(tmp_path)


def test_the_embedded_checkpoint_holds_what_pipeline_json_says() -> None:
    checkpoint = load(EMBEDDED_DIRECTORY)
    args = PIPELINE["args"]
    for role in ("sparse_structure_sampler", "slat_sampler"):
        params = args[role]["params"]
        expected = SamplerParams(**{**params, "cfg_interval": tuple(params["cfg_interval"])})
        assert getattr(checkpoint, f"{role}_params") == expected
    assert checkpoint.latent_mean.tolist() == pytest.approx(args["slat_normalization"]["mean"])
    assert checkpoint.latent_std.tolist() == pytest.approx(args["slat_normalization"]["std"])
    assert checkpoint.encoders["image_cond_model"] == args["image_cond_model"]
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
    assert load(copy).encoders


def test_means_may_be_whole_numbers(copy: Path) -> None:
    channels = load(copy).latent_flow.in_channels
    edit(copy / "pipeline.json", lambda c: c["args"]["slat_normalization"].update(mean=[1] * channels))
    assert load(copy).latent_mean.dtype == torch.float32


def test_without_an_image_encoder_its_name_is_empty(copy: Path) -> None:
    edit(copy / "pipeline.json", lambda c: c["args"].pop("image_cond_model"))
    assert load(copy).encoders == {}


def test_a_text_checkpoint(tiny_text_checkpoint: Path) -> None:
    checkpoint = load(tiny_text_checkpoint)
    assert checkpoint.encoders == {"text_cond_model": "text_encoder"}
    width = json.loads((tiny_text_checkpoint / "text_encoder" / "config.json").read_text())["hidden_size"]
    assert checkpoint.cond_channels == width != load(EMBEDDED_DIRECTORY).cond_channels
    assert checkpoint.slat_sampler_params == SamplerParams(25, 7.5, (0.5, 0.95), 3.0)
    assert "blocks.0.cross_attn.k_rms_norm.gamma" in checkpoint.structure_flow.state_dict()
    assert "blocks.0.cross_attn.k_rms_norm.gamma" not in checkpoint.latent_flow.state_dict()


def test_networks_that_two_checkpoints_share_are_loaded_once(tiny_text_checkpoint: Path) -> None:
    loaded: LoadedNetworks = {}
    image = load_checkpoint(EMBEDDED_DIRECTORY, CPU, torch.float32, loaded=loaded)
    text = load_checkpoint(tiny_text_checkpoint, CPU, torch.float32, loaded=loaded)
    assert text.structure_decoder is image.structure_decoder
    assert text.gaussian_decoder is image.gaussian_decoder
    assert text.structure_flow is not image.structure_flow
    assert len(loaded) == 6
    half = load_checkpoint(EMBEDDED_DIRECTORY, CPU, torch.float16, loaded=loaded)
    assert half.structure_decoder is not image.structure_decoder
    assert len(loaded) == 10


def test_links_to_one_file_are_one_network(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copy(copy / "pipeline.json", other)
    (other / "ckpts").mkdir()
    for file in (copy / "ckpts").iterdir():
        target = other / "ckpts" / file.name
        target.symlink_to(file) if "dec" in file.name else target.hardlink_to(file)
    loaded: LoadedNetworks = {}
    load_checkpoint(copy, CPU, torch.float32, loaded=loaded)
    load_checkpoint(other, CPU, torch.float32, loaded=loaded)
    assert len(loaded) == 4
    # The same weights beside another JSON file are another network.
    json_file = other / f"{FLOW}.json"
    content = json_file.read_bytes()
    json_file.unlink()
    json_file.write_bytes(content)
    load_checkpoint(other, CPU, torch.float32, loaded=loaded)
    assert len(loaded) == 5


def lay_out(cache: Path, repository: str, stem: Path) -> None:
    """Put a network's two files into a Hugging Face cache as main of a repository."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("f" * 40)
    ckpts = folder / "snapshots" / ("f" * 40) / "ckpts"
    ckpts.mkdir(parents=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(f"{stem}{suffix}", ckpts)


def test_a_model_path_may_point_into_another_repository(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    stem = MODELS["slat_decoder_gs"]
    value = f"org/other/{stem}"
    edit(copy / "pipeline.json", lambda c: c["args"]["models"].update(slat_decoder_gs=value))
    with pytest.raises(CheckpointError, match=f"run `.* {value}`"):
        load(copy)
    lay_out(cache, "org/other", copy / stem)
    (copy / f"{stem}.safetensors").unlink()
    expected = load(EMBEDDED_DIRECTORY).gaussian_decoder.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in load(copy).gaussian_decoder.state_dict().items())


def test_single_networks_can_be_replaced(copy: Path) -> None:
    original = load(copy)
    tensors = load_file(copy / f"{FLOW}.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, copy / "distilled.safetensors")
    shutil.copy(copy / f"{FLOW}.json", copy / "distilled.json")
    for reference in ("distilled", str(copy / "distilled.safetensors")):
        overrides = {"sparse_structure_flow_model": reference}
        replaced = load_checkpoint(copy, CPU, torch.float32, overrides=overrides)
        ours, theirs = replaced.structure_flow.state_dict(), original.structure_flow.state_dict()
        assert all(torch.equal(ours[name], 2 * theirs[name]) for name in ours)
        assert torch.equal(
            replaced.latent_flow.state_dict()["out_layer.bias"], original.latent_flow.state_dict()["out_layer.bias"]
        )


def test_what_is_overridden_is_not_read(copy: Path) -> None:
    shutil.copytree(copy / "ckpts", copy / "own")
    for suffix in (".json", ".safetensors"):
        (copy / f"{FLOW}{suffix}").unlink()
    edit(copy / "pipeline.json", lambda c: c["args"]["models"].pop("sparse_structure_flow_model"))
    stem = f"own/{Path(FLOW).name}"
    assert load_checkpoint(copy, CPU, torch.float32, overrides={"sparse_structure_flow_model": stem})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"slat_decoder_mesh": FLOW}, "no network slat_decoder_mesh to override; choose from sparse_structure"),
        ({"slat_flow_model": FLOW}, rf"overrides: slat_flow_model is a SparseStructureFlowModel, not .*{FLOW}\.json"),
        ({"slat_flow_model": "ckpts/none"}, r"ckpts/none\.json is missing"),
        ({"slat_flow_model": "TEXT"}, "take conditions of different widths"),
    ],
)
def test_an_override_that_does_not_fit_is_named(
    overrides: dict[str, str], message: str, tiny_text_checkpoint: Path
) -> None:
    text = str(tiny_text_checkpoint / "ckpts" / "slat_flow_txt_tiny")
    overrides = {role: text if value == "TEXT" else value for role, value in overrides.items()}
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(EMBEDDED_DIRECTORY, CPU, torch.float32, overrides=overrides)
