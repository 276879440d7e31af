import errno
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.conditioning import ImageEncoder
from pipeline.errors import CheckpointError
from pipeline.scoring import QualityScorer
from pipeline.text_conditioning import TextEncoder
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint, load_network
from pipeline.weights import locate, locate_image_encoder, locate_network, locate_text_encoder
from scripts import download_weights as script
from scripts import fetch_background_model
from scripts.hub import DownloadError, find
from tests.miner.conftest import make_splats
from tests.scorers import write_scorer
from tests.scripts.fake_hub import COMMIT, FakeHub, break_off, damaged, unavailable

CPU = torch.device("cpu")
EMBEDDED = locate("embedded", "pipeline.json")
IMAGE, TEXT = "microsoft/TRELLIS-image-large", "microsoft/TRELLIS-text-xlarge"
DINO, CLIP = "facebook/dinov2-with-registers-large", "openai/clip-vit-large-patch14"
FLOW = "ckpts/slat_flow_tiny.safetensors"
NETWORK = f"{IMAGE}/ckpts/slat_flow_tiny"
PHASE = """
image: {{checkpoint: {image}}}
text: {{checkpoint: {text}}}
sparse_structure_sampler_params: {{steps: 2, cfg_strength: 5}}
slat_sampler_params: {{steps: 2, cfg_strength: 5}}
background: {{model: u2netp}}
"""


def publish(hub: FakeHub, text_checkpoint: Path) -> None:
    """Small weights under upstream's names and laid out as upstream lays them out."""
    hub.add(IMAGE, EMBEDDED / "ckpts", prefix="ckpts/")
    content = json.loads((EMBEDDED / "pipeline.json").read_text())
    content["args"]["image_cond_model"] = "dinov2_vitl14_reg"
    content["args"]["models"]["slat_decoder_mesh"] = "ckpts/slat_dec_mesh"
    hub.repositories[IMAGE] |= {
        "pipeline.json": json.dumps(content).encode(),
        "ckpts/slat_dec_mesh.json": b"{}",
        "ckpts/slat_dec_mesh.safetensors": b"large",
        "README.md": b"",
    }
    hub.add(DINO, EMBEDDED / "image_encoder")
    hub.repositories[DINO]["pytorch_model.bin"] = b"large"
    hub.add(TEXT, text_checkpoint / "ckpts", prefix="ckpts/")
    content = json.loads((text_checkpoint / "pipeline.json").read_text())
    content["args"]["text_cond_model"] = CLIP
    for role, name in (("sparse_structure_decoder", "ss_dec_tiny"), ("slat_decoder_gs", "slat_dec_gs_tiny")):
        content["args"]["models"][role] = f"{IMAGE}/ckpts/{name}"
    hub.repositories[TEXT]["pipeline.json"] = json.dumps(content).encode()
    hub.add(CLIP, text_checkpoint / "text_encoder")
    hub.repositories[CLIP]["tokenizer_config.json"] = b"{}"
    hub.repositories[CLIP]["pytorch_model.bin"] = b"large"


@pytest.fixture
def hub(tiny_text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        publish(hub, tiny_text_checkpoint)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a phase; its background model is already there."""
    monkeypatch.setattr(script, "shipped_config", lambda: tmp_path)
    monkeypatch.setattr(fetch_background_model, "fetch", lambda model: Path("models") / model)

    def write(image: str = IMAGE, text: str = TEXT, more: str = "") -> str:
        (tmp_path / "phases").mkdir(exist_ok=True)
        (tmp_path / "phases" / "mine.yaml").write_text(PHASE.format(image=image, text=text) + more)
        return "mine"

    return write


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., int]:
    # The client waits a second before it resumes after a broken connection.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["download_weights.py", *map(str, arguments)])
        return script.main()

    return run


def load_both(image: str, text: str) -> None:
    """What the miner does with the weights. Raises CheckpointError if something is missing."""
    loaded: LoadedNetworks = {}
    directory = locate(image, "pipeline.json")
    networks = load_checkpoint(directory, CPU, torch.float32, loaded=loaded)
    ImageEncoder(locate_image_encoder(networks.image_cond_model, directory), CPU)
    directory = locate(text, "pipeline.json")
    networks = load_checkpoint(directory, CPU, torch.float32, loaded=loaded)
    TextEncoder(locate_text_encoder(networks.text_cond_model, directory), CPU)
    # The decoders are the same files.
    assert len(loaded) == 6


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_a_phase_goes_to_the_cache_and_the_miner_finds_it(
    hub: FakeHub, main: Callable[..., int], phase: Callable[..., str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--phase", phase()) == 0
    assert "background model: models/u2netp" in capsys.readouterr().out
    load_both(IMAGE, TEXT)
    assert not any("mesh" in path or path.endswith((".bin", ".md")) for path in hub.fetched())
    assert not list(cache.rglob("*.incomplete"))
    asked = len(hub.requests)
    assert main("--phase", phase()) == 0
    assert all(request.method == "HEAD" for request in hub.requests[asked:])


def test_a_phase_goes_to_plain_directories(
    hub: FakeHub,
    main: Callable[..., int],
    phase: Callable[..., str],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "weights"
    assert main("--phase", phase(), "--to", folder) == 0
    out = capsys.readouterr().out
    assert f"set image.checkpoint of phase mine to {folder}/image" in out
    assert f"set text.checkpoint of phase mine to {folder}/text" in out
    load_both(str(folder / "image"), str(folder / "text"))
    assert not cache.exists()
    networks = ("slat_dec_gs_tiny", "slat_flow_tiny", "ss_dec_tiny", "ss_flow_tiny")
    assert files(folder / "image") == {
        "pipeline.json",
        *(f"ckpts/{name}{suffix}" for name in networks for suffix in (".json", ".safetensors")),
        "dinov2_vitl14_reg/config.json",
        "dinov2_vitl14_reg/model.safetensors",
    }
    # Both checkpoints use it, and it came once.
    assert [request.path for request in hub.requests].count("ckpts/slat_dec_gs_tiny.safetensors") == 1


def test_one_checkpoint_goes_to_the_directory_itself(hub: FakeHub, main: Callable[..., int], tmp_path: Path) -> None:
    assert main(f"{IMAGE}@main", "--to", tmp_path / "weights") == 0
    assert (tmp_path / "weights" / "pipeline.json").is_file()
    networks = load_checkpoint(tmp_path / "weights", CPU, torch.float32)
    assert locate_image_encoder(networks.image_cond_model, tmp_path / "weights")


def test_a_network_and_an_encoder_by_themselves(hub: FakeHub, main: Callable[..., int], cache: Path) -> None:
    assert main(f"{IMAGE}/ckpts/ss_dec_tiny@{COMMIT}", CLIP, DINO) == 0
    snapshot = cache / "models--microsoft--TRELLIS-image-large" / "snapshots" / COMMIT
    assert files(snapshot) == {"ckpts/ss_dec_tiny.json", "ckpts/ss_dec_tiny.safetensors"}
    TextEncoder(locate(CLIP, "config.json"), CPU)
    ImageEncoder(locate(DINO, "config.json"), CPU)


@pytest.mark.parametrize("to", [False, True])
def test_an_override_comes_from_its_own_repository_at_its_revision(
    hub: FakeHub, main: Callable[..., int], phase: Callable[..., str], tmp_path: Path, to: bool
) -> None:
    hub.commits["v2"] = "d" * 40
    reference = "somebody/distilled/flows/slat@v2"
    hub.repositories["somebody/distilled"] = {
        f"flows/slat{suffix}": (EMBEDDED / f"ckpts/slat_flow_tiny{suffix}").read_bytes()
        for suffix in (".json", ".safetensors")
    }
    name = phase(IMAGE + f", overrides: {{slat_flow_model: {reference}}}")
    assert main("--phase", name, *(("--to", tmp_path / "w") if to else ())) == 0
    assert f"{IMAGE}/ckpts/slat_flow_tiny.json" not in hub.fetched()
    directory = locate(str(tmp_path / "w" / "image") if to else IMAGE, "pipeline.json")
    assert load_checkpoint(directory, CPU, torch.float32, overrides={"slat_flow_model": reference})


def test_what_a_local_checkpoint_lacks_goes_to_the_cache_or_into_it(
    hub: FakeHub, main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(EMBEDDED / "ckpts", own / "ckpts")
    (own / "pipeline.json").write_bytes(hub.repositories[IMAGE]["pipeline.json"])
    assert main(own) == 0
    assert hub.fetched() == {f"{DINO}/config.json", f"{DINO}/model.safetensors", "model.safetensors"}
    assert locate_image_encoder("dinov2_vitl14_reg", own).parent.name == "snapshots"
    assert main(own, "--to", own) == 0
    assert locate_image_encoder("dinov2_vitl14_reg", own) == own / "dinov2_vitl14_reg"
    assert main(own, "--to", tmp_path / "other") == 2
    assert "is a directory already" in capsys.readouterr().err
    (own / FLOW).write_bytes((own / FLOW).read_bytes()[:-1])
    assert main(own) == 2
    assert f"{own / FLOW} is damaged or no safetensors file" in capsys.readouterr().err


def test_an_interrupted_file_goes_on_where_it_stopped(
    hub: FakeHub,
    main: Callable[..., int],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    arrived = len(hub.repositories[IMAGE][FLOW]) // 2 // 4096 * 4096
    hub.faults[FLOW] = [break_off, unavailable]
    assert main(NETWORK) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{hub.endpoint} answered HTTP 503 for {IMAGE}/{FLOW}; run this again to go on"
    )
    (partial,) = cache.rglob("*.incomplete")
    assert partial.stat().st_size == arrived
    stem = locate_network(NETWORK, tmp_path)
    with pytest.raises(CheckpointError, match=r"slat_flow_tiny\.safetensors is missing"):
        load_network(stem, CPU, torch.float32)
    assert main(NETWORK) == 0
    assert [request.range for request in hub.requests if request.path == FLOW] == [
        None,
        f"bytes={arrived}-",
        f"bytes={arrived}-",
    ]
    load_network(stem, CPU, torch.float32)


@pytest.mark.parametrize("to", [False, True])
def test_a_file_that_arrives_damaged_is_not_kept(
    hub: FakeHub, main: Callable[..., int], tmp_path: Path, to: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults[FLOW] = [damaged]
    arguments = (NETWORK, "--to", tmp_path / "w") if to else (NETWORK,)
    assert main(*arguments) == 1
    assert f"{IMAGE}/{FLOW} arrived damaged" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.incomplete"))
    assert not list(tmp_path.rglob("slat_flow_tiny.safetensors"))
    assert main(*arguments) == 0


@pytest.mark.parametrize("to", [False, True])
@pytest.mark.parametrize("name", [FLOW, "ckpts/slat_flow_tiny.json"])
def test_a_file_that_was_damaged_since_is_downloaded_again(
    hub: FakeHub, main: Callable[..., int], tmp_path: Path, to: bool, name: str
) -> None:
    arguments = (NETWORK, "--to", tmp_path / "w") if to else (NETWORK,)
    assert main(*arguments) == 0
    (path,) = (p for p in tmp_path.rglob(Path(name).name))
    content = hub.repositories[IMAGE][name]
    path.resolve().write_bytes(content[:-1] + b"?")
    assert main(*arguments) == 0
    assert path.read_bytes() == content


def test_a_partial_file_longer_than_the_file_is_started_over(
    hub: FakeHub, main: Callable[..., int], cache: Path
) -> None:
    hub.faults[FLOW] = [break_off, unavailable]
    assert main(NETWORK) == 1
    (partial,) = cache.rglob("*.incomplete")
    partial.write_bytes(b"x" * (len(hub.repositories[IMAGE][FLOW]) + 1))
    assert main(NETWORK) == 0


def test_a_file_that_the_hub_itself_holds_truncated_is_refused(
    hub: FakeHub, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[IMAGE][FLOW] = hub.repositories[IMAGE][FLOW][:-10]
    assert main(NETWORK) == 2
    assert "is damaged or no safetensors file" in capsys.readouterr().err


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: FakeHub, main: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(IMAGE) == 0
    at_the_hub = [request for request in hub.requests if request.path.startswith(IMAGE)]
    elsewhere = [request for request in hub.requests if request.path.startswith("ckpts/")]
    assert {request.authorization for request in at_the_hub} == {"Bearer hf_secret"}
    assert {request.authorization for request in elsewhere} == {None}
    assert len(elsewhere) == 4


def remove(repository: str, path: str) -> Callable[[FakeHub], object]:
    return lambda hub: hub.repositories[repository].pop(path)


def refuse(repository: str, status: int, code: str = "") -> Callable[[FakeHub], object]:
    return lambda hub: hub.refusals.update({repository: (status, code)})


def models(**values: str) -> Callable[[FakeHub], object]:
    def change(hub: FakeHub) -> None:
        content = json.loads(hub.repositories[IMAGE]["pipeline.json"])
        content["args"]["models"].update(values)
        hub.repositories[IMAGE]["pipeline.json"] = json.dumps(content).encode()

    return change


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (refuse(IMAGE, 401, "RepoNotFound"), 2, f"has no repository {IMAGE}, or it is private: check the name, or set"),
        (refuse(IMAGE, 403, "GatedRepo"), 2, f"{IMAGE} is gated: accept its terms at"),
        (refuse(IMAGE, 403), 2, f"refused {IMAGE}/pipeline.json with HTTP 403: set HF_TOKEN"),
        (refuse(DINO, 404), 2, f"answered HTTP 404 for {DINO}/config.json"),
        (refuse(IMAGE, 429), 1, "answered HTTP 429"),
        (refuse(IMAGE, 500), 1, "answered HTTP 500"),
        (remove(IMAGE, FLOW), 2, f"{IMAGE} has no {FLOW}; pickled weights are not used"),
        (remove(IMAGE, "ckpts/slat_flow_tiny.json"), 2, f"{IMAGE} has no ckpts/slat_flow_tiny.json"),
        (remove(DINO, "model.safetensors"), 2, f"{DINO} has no model.safetensors; pickled weights are not used"),
        (models(slat_flow_model="nobody/nothing/x"), 2, "has no repository nobody/nothing"),
        (models(slat_flow_model="../../x"), 2, f"{IMAGE} has no ../../x.json"),
        (lambda hub: hub.repositories[IMAGE].update({"pipeline.json": b"[]"}), 2, "is not a JSON object"),
        (lambda hub: hub.repositories[IMAGE].update({"pipeline.json": b"{}"}), 2, "lacks the key 'args'"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    hub: FakeHub,
    main: Callable[..., int],
    tmp_path: Path,
    change: Callable[[FakeHub], object],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(hub)
    assert main(IMAGE, "--to", tmp_path / "w") == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert line.endswith("; run this again to go on") == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{IMAGE}@v9",), f"{IMAGE} has no revision v9"),
        (("no name/at all!",), "is no Hugging Face id"),
        (("nowhere",), "'nowhere' is neither a directory nor a Hugging Face id"),
        (("--phase", "nothing"), "there is no phase 'nothing'"),
        ((f"{IMAGE}/ckpts/none",), f"{IMAGE} has no ckpts/none.json"),
    ],
)
def test_mistakes_are_named(
    hub: FakeHub,
    main: Callable[..., int],
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("relative", ["../outside/config.json", "x/../../outside", "/tmp/outside"])
def test_nothing_is_written_outside_of_the_directory(hub: FakeHub, tmp_path: Path, relative: str) -> None:
    file = find(IMAGE, "pipeline.json", None)
    assert file
    with pytest.raises(DownloadError, match="outside of"):
        script.in_folder(tmp_path / "w", {})(file, relative)
    assert IMAGE + "/pipeline.json" not in hub.fetched()


def test_without_a_network_it_says_so(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert main(IMAGE) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{endpoint} cannot be reached for {IMAGE}/pipeline.json (ConnectError: ")
    assert line.endswith("; what has arrived is kept; run this again to go on")


def test_a_disk_that_is_too_small_is_found_before_downloading(
    hub: FakeHub, main: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(IMAGE) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"the disk is full: {IMAGE}/ckpts/ss_flow_tiny.safetensors needs 0.01 GB more, ")
    assert "ss_flow_tiny.safetensors" not in " ".join(hub.fetched())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full exists on Linux only")
def test_a_disk_that_becomes_full_is_named(
    hub: FakeHub, main: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults[FLOW] = [break_off, unavailable]
    assert main(NETWORK) == 1
    (partial,) = cache.rglob("*.incomplete")
    partial.unlink()
    partial.symlink_to("/dev/full")
    assert main(NETWORK) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"the disk is full: {IMAGE}/{FLOW} needs more room"


def test_two_at_once_do_not_write_into_one_file(
    hub: FakeHub, main: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    hub.faults[FLOW] = [break_off, unavailable]
    assert main(NETWORK) == 1
    (partial,) = cache.rglob("*.incomplete")
    with partial.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(NETWORK) == 1
    assert f"{IMAGE}/{FLOW} is being downloaded by another process" in capsys.readouterr().err
    assert main(NETWORK) == 0


def test_a_directory_that_cannot_be_written_is_named(
    hub: FakeHub, main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(IMAGE, "--to", tmp_path / "file" / "w") == 2
    assert f"[Errno {errno.ENOTDIR}]" in capsys.readouterr().err


def test_the_embedded_checkpoint_needs_nothing(
    hub: FakeHub,
    main: Callable[..., int],
    phase: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main("embedded") == 0
    assert hub.requests == []
    assert main("--phase", phase("embedded"), "--to", tmp_path / "w") == 0
    out = capsys.readouterr().out
    assert f"set text.checkpoint of phase mine to {tmp_path}/w\n" in out
    assert "set image.checkpoint" not in out


def test_a_command_line_without_anything_to_do_is_refused(main: Callable[..., int], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "name a --phase, or what to download" in capsys.readouterr().err


def test_the_endpoint_comes_from_the_environment_and_progress_is_shown(hub: FakeHub, tmp_path: Path) -> None:
    # The last one shows bars without a terminal, too.
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "TQDM_POSITION": "-1"}
    command = [sys.executable, script.__file__, f"{IMAGE}/ckpts/ss_dec_tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("verified")) == (0, 2), done.stderr
    assert "ckpts/ss_dec_tiny.safetensors: 100%" in done.stderr
    assert len(list(tmp_path.rglob("ss_dec_tiny.safetensors"))) == 1


# What scores, and what draws.

SCORER = "404-Gen/validation@948bf06988b630681c7bc468aebf2bbe010856f7"
TURBO = "org/turbo"


@pytest.fixture
def scorer(hub: FakeHub, tmp_path: Path) -> str:
    """Published as the subnet does it, with the backbone's own weights in the backbone's repository."""
    (tmp_path / "scorer-files").mkdir()
    (tmp_path / "backbone-files").mkdir()
    write_scorer(tmp_path / "scorer-files", config=tmp_path / "backbone-files")
    hub.add("404-Gen/validation", tmp_path / "scorer-files")
    hub.add("facebook/dinov2-small", tmp_path / "backbone-files")
    hub.repositories["facebook/dinov2-small"]["model.safetensors"] = b"large"
    commit = SCORER.partition("@")[2]
    hub.commits[commit] = commit
    return "scorer: {}\n"


@pytest.fixture
def turbo(hub: FakeHub, tmp_path: Path) -> str:
    """A model with files in half precision, in full, in several pieces, and pickles."""
    folder = tmp_path / "turbo-files"
    weights = {"weight": torch.zeros(2)}
    content = {
        "_class_name": "Some",
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
    }
    for name in content:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(content))
    for name in ("scheduler/scheduler_config", "image_processor/preprocessor_config", "tokenizer/vocab"):
        (folder / f"{name}.json").write_text(json.dumps({"name": name}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2")
    for name in ("text_encoder", "transformer", "vae"):
        (folder / name / "config.json").write_text(json.dumps({"name": name}))
        (folder / name / "pytorch_model.bin").write_bytes(b"large")
    for name in ("vae/diffusion_pytorch_model", "vae/diffusion_pytorch_model.fp16", "text_encoder/model"):
        save_file(weights | {"name": torch.tensor([*name.encode()])}, folder / f"{name}.safetensors")
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard in shards:
        save_file(weights | {"name": torch.tensor([*shard.encode()])}, folder / "transformer" / shard)
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    hub.add(TURBO, folder)
    return f"text_to_image: {{model: {TURBO}}}\n"


TURBO_FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "image_processor/preprocessor_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}


def test_what_a_phase_scores_and_draws_with_goes_to_the_cache(
    hub: FakeHub, main: Callable[..., int], phase: Callable[..., str], cache: Path, scorer: str, turbo: str
) -> None:
    name = phase(more=scorer + turbo)
    content = (cache.parent / "phases" / "mine.yaml").read_text().splitlines(keepends=True)
    # Sentences go one way or the other.
    without_text = [line for line in content if not line.startswith("text:")]
    (cache.parent / "phases" / "mine.yaml").write_text("".join(without_text))
    assert main("--phase", name) == 0
    assert 0 < QualityScorer.load(SCORER, CPU)(make_splats(50)) < 1
    assert "facebook/dinov2-small/model.safetensors" not in hub.fetched()
    directory = locate(TURBO, "model_index.json")
    assert files(directory) == TURBO_FILES
    asked = len(hub.requests)
    assert main("--phase", name) == 0
    assert all(request.method == "HEAD" for request in hub.requests[asked:])


def test_a_scorer_alone_goes_to_a_plain_directory(
    hub: FakeHub, main: Callable[..., int], phase: Callable[..., str], scorer: str, tmp_path: Path
) -> None:
    assert main(SCORER, "--to", tmp_path / "there") == 0
    assert files(tmp_path / "there") == {"quality_scorer.safetensors", "config.json"}
    assert 0 < QualityScorer.load(str(tmp_path / "there"), CPU)(make_splats(50)) < 1


def test_what_to_write_into_the_phase_is_told(
    main: Callable[..., int],
    phase: Callable[..., str],
    scorer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main("--phase", phase(more=scorer), "--to", tmp_path / "all") == 0
    told = capsys.readouterr().out
    for key, folder in (("image.checkpoint", "image"), ("text.checkpoint", "text"), ("scorer.weights", "scorer")):
        assert f"set {key} of phase mine to {tmp_path / 'all' / folder}" in told


def test_a_model_without_safetensors_is_refused(
    hub: FakeHub, main: Callable[..., int], turbo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
        del hub.repositories[TURBO][f"vae/{name}.safetensors"]
    assert main(TURBO) == 2
    message = "there is no vae/diffusion_pytorch_model.safetensors; pickled weights are not used"
    assert message in capsys.readouterr().err
