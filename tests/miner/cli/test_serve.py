"""The commands that work until they are told to stop, as processes."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from miner.localnet.validator import LOOPBACK, free_port
from pipeline import ply

TIMEOUT = 60.0
pytestmark = pytest.mark.process


async def read_until(stream: asyncio.StreamReader, text: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while text not in (line := (await stream.readline()).decode()):
            assert line, f"the output ended before {text!r}"


@pytest.mark.slow
async def test_serve_answers_without_chain_and_wallet_and_logs_what_it_does(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "miner", "serve", "--phase", "demo", "--port", str(port), "--state", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await read_until(process.stdout, "Serving demo (")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/health") as reply:
                assert (reply.status, (await reply.json())["status"]) == (200, "ok")
            form = aiohttp.FormData({"prompt": "a yellow duck", "seed": "3"}, default_to_multipart=True)
            async with session.post(f"{url}/generate", data=form) as reply:
                assert reply.status == 200
                assert len(ply.from_bytes(await reply.read())) == int(reply.headers["X-Gaussians"])
        await read_until(process.stdout, "TRELLIS generation took")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 0
    finally:
        if process.returncode is None:
            process.kill()


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    code = (
        "import asyncio, threading, time\n"
        "from miner.cli.run import run_to_the_end\n"
        "from miner.errors import ExitCode\n"
        "from miner.runtime import threads\n"
        "threads.END_TIMEOUT = 0.1\n"
        "begun = threading.Event()\n"
        "def hang():\n    begun.set()\n    time.sleep(3600)\n"
        "async def work():\n"
        "    hanging = asyncio.create_task(asyncio.to_thread(hang))\n"
        "    while not begun.is_set():\n        await asyncio.sleep(0.01)\n"
        "    hanging.cancel()\n"
        "    return ExitCode.NOT_REGISTERED\n"
        "run_to_the_end(work, debug=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 3


def test_an_unexpected_error_is_a_failure_that_a_restart_may_cure() -> None:
    code = (
        "from miner.cli.run import run_to_the_end\n"
        "async def work():\n    raise TimeoutError\n"
        "run_to_the_end(work, debug=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Ended by an unexpected error" in done.stdout + done.stderr
    assert "TimeoutError" in done.stdout + done.stderr
