"""What the workers of tests load, also in other processes: functions that can be pickled by their name."""

import logging
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from miner.config.phase_files import NamedPhase
from miner.config.settings import MinerSettings
from miner.gpu import ray_driver
from miner.gpu.local_worker import LoadModels
from miner.gpu.models import LoadedModels, load_phase_models
from pipeline import Asset, CheckpointError, OnStep, Request
from tests.support.generated import FakeBackend, FakeScorer, make_asset
from tests.support.waiting import TIMEOUT

log = logging.getLogger("miner.told")

LACK = "weights of chairs have not been downloaded: sn17-miner weights download chairs"


def real_models(device: str) -> LoadModels:
    """The models that a phase names, and a scorer that needs no weights."""

    def load(phase: NamedPhase) -> LoadedModels:
        # Two of a test are told apart by the words after the device.
        loaded = load_phase_models(phase, MinerSettings(phase=phase.name), device.split()[0])
        return LoadedModels(loaded.backend, FakeScorer(lambda splats: float(splats.means.std())))

    return load


def told_models(device: str, folder: Path) -> LoadModels:
    """A backend that does what files in a folder tell it, see `ToldWorkers`."""
    return partial(_load_told, folder=folder)


def _load_told(phase: NamedPhase, folder: Path) -> LoadedModels:
    log.warning("told to load phase %s", phase.name)
    if (folder / "lack-0").exists():
        raise CheckpointError(LACK)
    (folder / f"loaded-{phase.name}-{os.getpid()}").touch()

    def generate(request: Request, on_step: OnStep) -> Asset:
        (folder / f"begun-{request.seed}-{os.getpid()}").touch()
        if (folder / f"break-{request.seed}").exists():
            (folder / f"break-{request.seed}").unlink()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if (folder / f"kill-{request.seed}").exists():
            os._exit(9)
        if (folder / f"fail-{request.seed}").exists():
            raise KeyError("a bug")
        _wait_while_held(folder, request.seed, on_step)
        return make_asset(request)

    return LoadedModels(FakeBackend(generate), FakeScorer(lambda splats: float(splats.means[0, 0])))


def _wait_while_held(folder: Path, seed: int, on_step: OnStep) -> None:
    deadline = time.monotonic() + TIMEOUT
    while (folder / f"hold-{seed}").exists() and time.monotonic() < deadline:
        on_step("structure", 1, 2)
        time.sleep(0.01)


class ToldWorkers:
    """The folder of `told_models`: which candidates are held, broken or failed, and by whom they were begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tell(self, what: str, seed: int) -> None:
        """Have the making of a seed `hold`, `break` the device once, `kill` the process, or `fail`.

        While it is told to `lack` 0, no phase can be loaded.
        """
        (self.folder / f"{what}-{seed}").touch()

    def release(self, seed: int, what: str = "hold") -> None:
        (self.folder / f"{what}-{seed}").unlink()

    def processes(self, what: str, name: object) -> list[int]:
        """The processes in which something was `begun` or `loaded`."""
        return [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{what}-{name}-*")]


def models_that_one_lacks(device: str, folder: Path) -> LoadModels:
    """`told_models`, which a process lacks for each of the files `lack-1`, `lack-2` and so on in a folder."""

    def load(phase: NamedPhase) -> LoadedModels:
        for path in folder.glob("lack-*"):
            with suppress(FileNotFoundError):
                path.rename(folder / f"lacked-{os.getpid()}")
                raise CheckpointError(LACK)
        return _load_told(phase, folder)

    return load


def drive_with_another_version(*arguments: Any) -> None:
    """Drive a Ray cluster as if the miner were of another version than the nodes."""
    ray_driver.comparable_version = lambda: "9.9"  # type: ignore[assignment]
    ray_driver.drive(*arguments)
