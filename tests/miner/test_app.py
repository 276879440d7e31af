"""The miner as an operator meets it: the process, its exit codes and its messages."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import bittensor as bt
import pytest

from miner.errors import ExitCode
from miner.localnet.validator import LOOPBACK, LocalValidator, free_port, write_chain_file
from miner.localnet.validator_rules import ValidatorTiming
from miner.runtime.logging import ResultLine
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ImageTask, TextTask
from tests.support.addresses import address
from tests.support.paths import ROOT

MINER = ROOT / "neurons" / "miner.py"
TIMEOUT = 90.0
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| (DEBUG|INFO|WARNING|ERROR) \| .+")

# The demo's phase in fewer steps.
QUICK = """
extends: demo
sparse_structure_sampler_params: {steps: 3}
slat_sampler_params: {steps: 2}
"""


class Subnet:
    """A chain file and the arguments that lead a miner to it."""

    def __init__(self, folder: Path, wallets: dict[str, bt.Wallet]) -> None:
        self.wallet = wallets["miner"]
        self.chain_file = folder / "chain.json"
        self.validator_port, self.miner_port, self.monitor_port = free_port(), free_port(), free_port()
        coldkey = address("c")
        validator = Neuron(
            uid=0,
            hotkey=wallets["validator"].hotkey.ss58_address,
            coldkey=coldkey,
            stake=5000,
            validator_permit=True,
            ip=LOOPBACK,
            port=self.validator_port,
        )
        hotkey = self.wallet.hotkey.ss58_address
        self.neurons = [
            validator,
            Neuron(uid=1, hotkey=hotkey, coldkey=address("c"), ip=LOOPBACK, port=self.miner_port),
        ]
        write_chain_file(self.chain_file, self.neurons)

    def arguments(self, **changes: str) -> list[str]:
        """The command line, with some options replaced (given with _ for . in their names)."""
        options = {
            "--netuid": "17",
            "--phase": "demo",
            "--subtensor.network": f"file:{self.chain_file}",
            "--wallet.path": self.wallet.path,
            "--wallet.name": self.wallet.name,
            "--wallet.hotkey": "default",
            "--axon.ip": LOOPBACK,
            "--axon.port": str(self.miner_port),
            "--monitor.port": str(self.monitor_port),
        }
        options |= {f"--{name.replace('_', '.')}": value for name, value in changes.items()}
        return [part for option in options.items() for part in option]


@pytest.fixture
def subnet(tmp_path: Path, wallets: dict[str, bt.Wallet]) -> Subnet:
    return Subnet(tmp_path, wallets)


def run_miner(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MINER), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def assert_operators_mistake(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == ExitCode.OPERATOR_MISTAKE, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    for part in parts:
        assert part in done.stderr


def test_missing_wallet_names_file_and_cure(subnet: Subnet, tmp_path: Path) -> None:
    done = run_miner(subnet.arguments(wallet_name="nobody"), tmp_path)
    assert_operators_mistake(done, "nobody/hotkeys/default", "btcli wallet")


def test_not_registered_names_hotkey_and_cure(subnet: Subnet, tmp_path: Path) -> None:
    write_chain_file(subnet.chain_file, subnet.neurons[:1])
    done = run_miner(subnet.arguments(), tmp_path)
    assert done.returncode == ExitCode.NOT_REGISTERED, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert subnet.wallet.hotkey.ss58_address in done.stderr
    assert "btcli subnets register --netuid 17" in done.stderr


def test_missing_chain_file(subnet: Subnet, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "chain.json"
    done = run_miner(subnet.arguments(subtensor_network=f"file:{missing}"), tmp_path)
    assert_operators_mistake(done, str(missing), "does not exist")
    assert not missing.parent.exists()


def test_taken_port(subnet: Subnet, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, subnet.miner_port))
        holder.listen()
        assert_operators_mistake(run_miner(subnet.arguments(), tmp_path), str(subnet.miner_port), "--axon.port")


def test_missing_weights_name_the_download_command(subnet: Subnet, tmp_path: Path) -> None:
    done = run_miner(subnet.arguments(phase="phase3"), tmp_path)
    assert_operators_mistake(done, "phase3", "weights download microsoft/TRELLIS-image-large")


def test_toys_stay_off_the_live_network(subnet: Subnet, tmp_path: Path) -> None:
    done = run_miner(subnet.arguments(subtensor_network="finney"), tmp_path)
    assert_operators_mistake(done, "toy checkpoint", "--phase")


def test_taken_monitor_port(subnet: Subnet, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, subnet.monitor_port))
        holder.listen()
        done = run_miner(subnet.arguments(), tmp_path)
        assert_operators_mistake(done, str(subnet.monitor_port), "--monitor.port")


async def health(subnet: Subnet) -> tuple[int, dict[str, Any]]:
    url = f"http://{LOOPBACK}:{subnet.monitor_port}/health"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.json()


async def read_until(stream: asyncio.StreamReader, text: str, lines: list[str]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not any(text in line for line in lines):
            line = (await stream.readline()).decode()
            assert line, "".join(lines)
            lines.append(line)


async def start_miner(subnet: Subnet, cwd: Path, **changes: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(MINER),
        *subnet.arguments(**changes),
        "--logging.debug",
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def wallet_files(subnet: Subnet) -> dict[Path, tuple[bytes, int]]:
    """Content and time of change of all that lies in the wallet's folder."""
    folder = Path(subnet.wallet.path) / subnet.wallet.name
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def secrets_of(subnet: Subnet) -> list[str]:
    """The hotkey's mnemonic, seed and private key."""
    key = json.loads((Path(subnet.wallet.path) / subnet.wallet.name / "hotkeys" / "default").read_text())
    return [str(key[name]).removeprefix("0x") for name in ("secretPhrase", "secretSeed", "privateKey") if key.get(name)]


async def test_a_working_day(subnet: Subnet, wallets: dict[str, bt.Wallet], tmp_path: Path, image_base64: str) -> None:
    """Started from another folder, with a quick phase of its own: pulls an image, a sentence and rubbish, is pushed to,
    stops on SIGTERM."""
    config = tmp_path / "config" / "miner.yaml"
    (config.parent / "phases").mkdir(parents=True)
    config.write_text("phase: quick\n")
    (config.parent / "phases" / "quick.yaml").write_text(QUICK)
    miner = wallets["miner"].hotkey.ss58_address
    timing = ValidatorTiming(throttle_period=0, task_cooldown=1, cooldown_penalty=0, validation_lock=0)
    validator = LocalValidator(wallets["validator"], subnet.validator_port, lambda hotkey: hotkey == miner, timing)
    await validator.start()
    validator.add_tasks(
        [
            ImageTask(id="image", prompt=image_base64),
            TextTask(id="text", prompt="a red chair"),
            ImageTask(id="rubbish", prompt="%"),
        ]
    )
    wallet_before = wallet_files(subnet)
    process = await start_miner(subnet, tmp_path, phase="quick", config=str(config))
    assert process.stdout is not None
    lines: list[str] = []
    try:
        await read_until(process.stdout, "| Ready:", lines)
        request = Generate(prompt=image_base64, seed=1)
        answer = await validator.push(subnet.neurons[1], request, "pushed", TIMEOUT)
        assert answer.error == ""
        code, status = await health(subnet)
        assert (code, status["status"], status["phase"], status["pipeline_loaded"]) == (200, "ok", "quick", True)
        assert status["counters"]["pushed"] == 1
        assert abs(status["last_success"] - time.time()) < TIMEOUT
        assert 0 <= status["metagraph_age"] < TIMEOUT
        await read_until(process.stdout, "Task rubbish: empty result submitted", lines)
        process.send_signal(signal.SIGTERM)
        rest = await asyncio.wait_for(process.stdout.read(), 30)
        lines += rest.decode().splitlines(keepends=True)
        assert await asyncio.wait_for(process.wait(), 30) == ExitCode.CLEAN
    finally:
        if process.returncode is None:
            process.kill()
        await validator.stop()
    log = "".join(lines)
    assert "Traceback" not in log
    assert all(LINE.fullmatch(line.rstrip("\n")) for line in lines), log
    verdicts = {delivery.task_id: delivery.verdict for delivery in validator.deliveries}
    assert verdicts == {"image": "valid", "pushed": "valid", "text": "valid", "rubbish": "skipped"}
    assert log.count("PromptError") == 2  # one line as it happens, one in the totals
    assert "PromptError 1" in log
    made = [line for line in map(ResultLine.parse, lines) if line is not None]
    assert {line.task_id for line in made} >= {"image", "text"}
    assert all(line.gaussians >= 7000 for line in made)
    assert image_base64[:40] not in log
    secrets = secrets_of(subnet)
    assert len(secrets) >= 2
    assert not any(secret in log for secret in secrets)
    assert wallet_files(subnet) == wallet_before != {}


async def test_deregistration_ends_the_miner(subnet: Subnet, tmp_path: Path) -> None:
    """Its own settings file looks at the chain every tenth of a second."""
    config = tmp_path / "fast.yaml"
    config.write_text("phase: demo\nchain: {sync_interval: 0.1}\n")
    blacklist = tmp_path / "blacklist.yaml"
    blacklist.write_text("allow: []\n")
    arguments = [*subnet.arguments(), "--config", str(config)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MINER), *arguments),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        await read_until(process.stdout, "| Ready:", lines)
        blacklist.write_text("min_stake: 1e6\n")
        process.send_signal(signal.SIGHUP)
        await read_until(process.stdout, "others need a permit and 1e+06 stake", lines)
        await read_until(process.stdout, "No longer pulling from validator 0", lines)
        subnet.chain_file.write_text("not JSON for a moment")
        await read_until(process.stdout, "the last one stays in use", lines)
        write_chain_file(subnet.chain_file, subnet.neurons[:1])
        lines += (await asyncio.wait_for(process.stdout.read(), 30)).decode().splitlines()
        assert await asyncio.wait_for(process.wait(), 30) == ExitCode.NOT_REGISTERED
    finally:
        if process.returncode is None:
            process.kill()
    assert "no longer registered on subnet 17" in lines[-1]


async def test_stop_while_loading(subnet: Subnet, tmp_path: Path) -> None:
    process = await start_miner(subnet, tmp_path)
    assert process.stdout is not None
    lines: list[str] = []
    await read_until(process.stdout, "Registered as uid 1", lines)
    code, status = await health(subnet)
    assert (code, status["status"], status["last_success"]) == (503, "starting", None)
    process.send_signal(signal.SIGINT)
    await read_until(process.stdout, "Stopped. Totals: nothing done", lines)
    assert await asyncio.wait_for(process.wait(), 30) == ExitCode.CLEAN
