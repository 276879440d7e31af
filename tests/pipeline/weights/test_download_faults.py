"""Downloads that are interrupted, damaged, refused or mistaken, and disks without room for them."""

import errno
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from filelock import FileLock
from huggingface_hub import constants

from pipeline.errors import CheckpointError, DownloadError
from pipeline.trellis.checkpoint import load_network
from pipeline.weights.download import FolderStore
from pipeline.weights.hub import find_file
from pipeline.weights.locate import HubReference, locate_network
from tests.pipeline.weights.conftest import CPU, DINO, FLOW, IMAGE, NETWORK
from tests.support.fake_hub import FakeHub, break_off, damaged, unavailable


def test_an_interrupted_file_goes_on_where_it_stopped(
    hub: FakeHub,
    download: Callable[..., Result],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    arrived = len(hub.repositories[IMAGE][FLOW]) // 2 // 4096 * 4096
    hub.faults[FLOW] = [break_off, unavailable]
    result = download(NETWORK)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"ERROR: {hub.endpoint} answered HTTP 503 for {IMAGE}/{FLOW}; run the command again to resume"
    )
    (partial,) = cache.rglob("*.incomplete")
    assert partial.stat().st_size == arrived
    stem = locate_network(NETWORK, tmp_path)
    with pytest.raises(CheckpointError, match=r"slat_flow_tiny\.safetensors is missing"):
        load_network(stem, CPU, torch.float32)
    assert download(NETWORK).exit_code == 0
    assert [request.range for request in hub.requests if request.path == FLOW] == [
        None,
        f"bytes={arrived}-",
        f"bytes={arrived}-",
    ]
    load_network(stem, CPU, torch.float32)


@pytest.mark.parametrize("to", [False, True])
def test_a_file_that_arrives_damaged_is_not_kept(
    hub: FakeHub, download: Callable[..., Result], tmp_path: Path, to: bool
) -> None:
    hub.faults[FLOW] = [damaged]
    arguments = (NETWORK, "--to", tmp_path / "w") if to else (NETWORK,)
    result = download(*arguments)
    assert result.exit_code == 1
    assert f"{IMAGE}/{FLOW} arrived damaged" in result.stderr
    assert not list(tmp_path.rglob("*.incomplete"))
    assert not list(tmp_path.rglob("slat_flow_tiny.safetensors"))
    assert download(*arguments).exit_code == 0


@pytest.mark.parametrize("to", [False, True])
@pytest.mark.parametrize("name", [FLOW, "ckpts/slat_flow_tiny.json"])
def test_a_file_that_was_damaged_since_is_downloaded_again(
    hub: FakeHub, download: Callable[..., Result], tmp_path: Path, to: bool, name: str
) -> None:
    arguments = (NETWORK, "--to", tmp_path / "w") if to else (NETWORK,)
    assert download(*arguments).exit_code == 0
    (path,) = (p for p in tmp_path.rglob(Path(name).name))
    content = hub.repositories[IMAGE][name]
    path.resolve().write_bytes(content[:-1] + b"?")
    assert download(*arguments).exit_code == 0
    assert path.read_bytes() == content


def test_a_partial_file_longer_than_the_file_is_started_over(
    hub: FakeHub, download: Callable[..., Result], cache: Path
) -> None:
    hub.faults[FLOW] = [break_off, unavailable]
    assert download(NETWORK).exit_code == 1
    (partial,) = cache.rglob("*.incomplete")
    partial.write_bytes(b"x" * (len(hub.repositories[IMAGE][FLOW]) + 1))
    assert download(NETWORK).exit_code == 0


def test_a_file_that_the_hub_itself_holds_truncated_is_refused(hub: FakeHub, download: Callable[..., Result]) -> None:
    hub.repositories[IMAGE][FLOW] = hub.repositories[IMAGE][FLOW][:-10]
    result = download(NETWORK)
    assert result.exit_code == 2
    assert "is damaged or not a safetensors file" in result.stderr


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
    download: Callable[..., Result],
    tmp_path: Path,
    change: Callable[[FakeHub], object],
    code: int,
    message: str,
) -> None:
    change(hub)
    result = download(IMAGE, "--to", tmp_path / "w")
    assert result.exit_code == code
    line = result.stderr.splitlines()[-1]
    assert message in line
    assert line.endswith("; run the command again to resume") == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{IMAGE}@v9",), f"{IMAGE} has no revision v9"),
        (("no name/at all!",), "is not a Hugging Face id"),
        (("nowhere",), "'nowhere' is neither a directory nor a Hugging Face id"),
        (("--phase", "nothing"), "there is no phase 'nothing'"),
        ((f"{IMAGE}/ckpts/none",), f"{IMAGE} has no ckpts/none.json"),
    ],
)
def test_mistakes_are_named(
    hub: FakeHub,
    download: Callable[..., Result],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    result = download(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("relative", ["../outside/config.json", "x/../../outside", "/tmp/outside"])
def test_nothing_is_written_outside_of_the_directory(hub: FakeHub, tmp_path: Path, relative: str) -> None:
    file = find_file(HubReference(IMAGE, "", None), "pipeline.json")
    assert file
    with pytest.raises(DownloadError, match="outside of"):
        FolderStore(tmp_path / "w")(file, relative)
    assert IMAGE + "/pipeline.json" not in hub.fetched()


def test_without_a_network_it_says_so(download: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    result = download(IMAGE)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"ERROR: {endpoint} cannot be reached for {IMAGE}/pipeline.json (ConnectError: ")
    assert line.endswith("; the part that arrived is kept; run the command again to resume")


def test_a_disk_that_is_too_small_is_found_before_downloading(
    hub: FakeHub, download: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = download(IMAGE)
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"ERROR: the disk is full: {IMAGE}/ckpts/ss_flow_tiny.safetensors needs 0.01 GB more, ")
    assert "ss_flow_tiny.safetensors" not in " ".join(hub.fetched())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full exists on Linux only")
def test_a_disk_that_becomes_full_is_named(hub: FakeHub, download: Callable[..., Result], cache: Path) -> None:
    hub.faults[FLOW] = [break_off, unavailable]
    assert download(NETWORK).exit_code == 1
    (partial,) = cache.rglob("*.incomplete")
    partial.unlink()
    partial.symlink_to("/dev/full")
    result = download(NETWORK)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"ERROR: the disk is full: {IMAGE}/{FLOW} does not fit"


def test_two_at_once_do_not_write_into_one_file(hub: FakeHub, download: Callable[..., Result], cache: Path) -> None:
    hub.faults[FLOW] = [break_off, unavailable]
    assert download(NETWORK).exit_code == 1
    (partial,) = cache.rglob("*.incomplete")
    arrived = partial.read_bytes()
    with FileLock(f"{partial}.lock"):
        result = download(NETWORK)
    assert result.exit_code == 1
    assert f"{IMAGE}/{FLOW} is being downloaded by another process" in result.stderr
    assert partial.read_bytes() == arrived
    assert download(NETWORK).exit_code == 0
    assert not [*cache.rglob("*.incomplete*")]


def test_a_directory_that_cannot_be_written_is_named(
    hub: FakeHub, download: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = download(IMAGE, "--to", tmp_path / "file" / "w")
    assert result.exit_code == 2
    assert f"[Errno {errno.ENOTDIR}]" in result.stderr


def test_a_command_line_without_anything_to_do_is_refused(download: Callable[..., Result]) -> None:
    result = download()
    assert result.exit_code == 2
    assert "name a --phase, or what to download" in result.stderr
