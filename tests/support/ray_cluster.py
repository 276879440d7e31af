"""A Ray cluster on this machine, on 127.0.0.1 alone, of which nothing is left once it is stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.paths import ROOT

START_TIMEOUT = 60.0
MARK = "TEST_RAY_CLUSTER"
TOKEN = "a token of tests, which opens nothing but them"


def environment() -> dict[str, str]:
    """What Ray and its drivers need in their environment, besides what is there."""
    return {
        # Only then does Ray listen on 127.0.0.1 alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # Nodes take this checkout, and sum in one thread.
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class LocalRay:
    """A cluster of one node, which can be stopped and started again at the same address."""

    def __init__(self, cpus: int = 2) -> None:
        # Short, since the paths of sockets are limited.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.cpus = cpus
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={self.port}", f"--num-cpus={self.cpus}", "--num-gpus=0"),
            *("--object-store-memory=100000000", f"--temp-dir={self.folder / 'session'}"),
            *("--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | environment() | {MARK: str(self.folder)}, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT
        while (self.folder / "log").read_text().count("Ray runtime started") == 0:
            assert self._process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the cluster, and make sure that none of its processes is left."""
        self._process.terminate()
        self._process.wait(START_TIMEOUT)
        self.lose()

    def lose(self) -> None:
        """Kill the cluster, as a machine without power: in order, Ray would wait for what its actors are doing."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + START_TIMEOUT
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)
        self._process.wait(START_TIMEOUT)
        (self.folder / "log").write_text("")

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def processes(self) -> list[int]:
        """The processes that the cluster has started."""
        mark = f"{MARK}={self.folder}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                is_one = mark in path.read_bytes() and b") Z " not in (path.parent / "stat").read_bytes()
            except OSError:
                continue
            if is_one and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        return found
