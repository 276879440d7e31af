"""Which devices are worked on, and what is said of settings that name others."""

from pathlib import Path

import pytest
import torch

from miner.config.settings import MinerSettings, OperatorFiles
from miner.errors import OperatorError
from miner.gpu import ray_cluster
from miner.gpu.build import build_workers, choose_devices
from miner.gpu.local_worker import LocalWorker
from miner.gpu.worker_process import _hide_others
from tests.support.waiting import TIMEOUT


def settings(folder: Path, text: str) -> MinerSettings:
    path = folder / "miner.yaml"
    path.write_text(f"phase: demo\n{text}\n")
    return OperatorFiles.load(path).settings


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("device: cuda:1", ("cuda:1",)),
        ("workers: {devices: auto}", ("auto",)),
        ("workers: {devices: all}", ("cuda:0", "cuda:1")),
        ("workers: {devices: [cuda:1, cuda:0]}", ("cuda:1", "cuda:0")),
        ("workers: {devices: [cuda, cpu]}", ("cuda:0", "cpu")),
        ("workers: {ray: {gpus: 8}}", ()),
        ("workers: {devices: auto, ray: {address: 10.0.0.1:6379, gpus: 8}}", ()),
        ("workers: {devices: [cuda:1], ray: {gpus: 8}}", ("cuda:1",)),
    ],
)
def test_the_devices_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices(settings(tmp_path, text)) == devices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: {devices: [cuda:0, cuda:0]}", "workers.devices: names cuda:0 twice"),
        ("workers: {devices: [cuda, cuda:0]}", "workers.devices: names cuda:0 twice"),
        ("workers: {devices: [cpu, cpu]}", "workers.devices: names cpu twice"),
        ("workers: {devices: [gpu0]}", "workers.devices: 'gpu0' is no device: name cuda:0"),
        ("workers: {devices: []}", "workers.devices: must be auto, all, or a list"),
        ("workers: {devices: two}", "workers.devices: must be auto, all, or a list"),
        ("device: cuda:1\nworkers: {devices: all}", "device and workers.devices both name devices"),
        ("workers: {ray: {}}", "workers.ray: give the number of GPUs that work for the miner: {gpus: 8}"),
        ("workers: {ray: {gpus: 1, cpus: 1}}", "workers.ray: give the number of GPUs"),
        ("workers: {ray: {gpus: 1, address: local}}", "workers.ray.address"),
        ("workers: {ray: {gpus: 1, address: ray://10.0.0.1:10001}}", "workers.ray.address"),
        ("device: cuda:1\nworkers: {ray: {gpus: 1}}", "device has no effect beside workers.ray"),
        ("workers: {devices: [cuda:0, cuda:7]}", "workers.devices names cuda:7, but torch sees cuda:0, cuda:1"),
    ],
)
def test_bad_settings_are_named_with_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OperatorError, match=message):
        build_workers(settings(tmp_path, text))


def test_all_of_none_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OperatorError, match=r"workers.devices is all, but torch sees no CUDA device"):
        build_workers(settings(tmp_path, "workers: {devices: all}"))


def test_ray_without_its_extra_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(OperatorError, match=r"workers.ray needs Ray, .* pip install 'sn17-miner\[ray\]'"):
        build_workers(settings(tmp_path, "workers: {ray: {gpus: 1}}"))


def test_one_device_is_driven_in_this_process(tmp_path: Path) -> None:
    for text in ("", "workers: {devices: [cpu]}"):
        (worker,) = build_workers(settings(tmp_path, text))
        assert isinstance(worker, LocalWorker)
        assert worker.stop(TIMEOUT)


@pytest.mark.parametrize(
    ("visible", "device", "name", "left"),
    [
        (None, "cuda:3", "cuda", "3"),
        ("4,5", "cuda:1", "cuda", "5"),
        ("GPU-a, GPU-b", "cuda:1", "cuda", "GPU-b"),
        ("4,5", "cpu", "cpu", "4,5"),
    ],
)
def test_a_process_sees_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, name: str, left: str
) -> None:
    import os

    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _hide_others(device) == name
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
