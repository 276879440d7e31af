"""The demo: a miner and a local validator on this machine, three pictures and a sentence, pictures of the results.

    python scripts/run_demo.py [--output demo-output]

The validator compares toys that it knows with their own pictures, from the front and from behind; of what it does not
know it looks at validity alone. Exit 0 only if it accepts all results.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent

import torch
from PIL import Image

from miner.errors import ExitCode
from miner.localnet.validator import LOOPBACK, Delivery, LocalValidator, free_port, make_wallet, write_chain_file
from miner.localnet.validator_rules import ValidatorTiming
from miner.runtime.logging import ResultLine
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ImageTask, TextTask
from pipeline import STAGES, ReferenceViews, ply
from pipeline.rendering.contact_sheet import draw_contact_sheet
from scripts.train_tiny.distances import Objects
from scripts.train_tiny.measures import cameras, true_views
from scripts.train_tiny.objects import make_thing
from scripts.train_tiny.pictures import pictures
from scripts.train_tiny.pool import HELD_OUT

NETUID = 17
VALIDATOR_STAKE = 5000.0
READY_TIMEOUT = 180.0
TASKS_TIMEOUT = 180.0
STOP_TIMEOUT = 30.0
TOYS = (2, 11)
PICTURE_SIZE = 512
# The subnet's 300 s would make a dull demo.
TIMING = ValidatorTiming(throttle_period=0, task_cooldown=2, cooldown_penalty=0, validation_lock=0)


@dataclass(frozen=True)
class Prompt:
    """One demo task: a picture or a sentence; reference: what it shows, where that is known."""

    id: str
    transport: str
    shows: Image.Image | str
    reference: ReferenceViews | None = None

    @property
    def task_type(self) -> Literal["image", "text"]:
        """As the protocol has it."""
        return "text" if isinstance(self.shows, str) else "image"

    @property
    def text(self) -> str:
        """As it travels: a picture's file in base64, a sentence as it is."""
        if isinstance(self.shows, str):
            return self.shows
        buffer = io.BytesIO()
        self.shows.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    @property
    def task(self) -> ImageTask | TextTask:
        """For miners that pull."""
        kind = TextTask if self.task_type == "text" else ImageTask
        return kind(id=self.id, prompt=self.text)


def toy(task_id: str, number: int) -> Prompt:
    """A picture with alpha of one of the objects that the embedded checkpoint was never trained on."""
    objects = Objects.of([make_thing(HELD_OUT + number).parts], torch.device("cpu"))
    rgba = pictures(objects, PICTURE_SIZE)[0].permute(1, 2, 0)
    picture = Image.fromarray((rgba * 255).round().byte().numpy(), "RGBA")
    return Prompt(task_id, "pull", picture, ReferenceViews(cameras(), true_views(objects)))


def demo_prompts() -> list[Prompt]:
    """A photograph that scikit-image ships, opaque, two toys with an alpha channel, and a sentence."""
    from skimage import data

    return [
        Prompt("1", "push", Image.fromarray(data.coffee())),
        toy("2", TOYS[0]),
        toy("3", TOYS[1]),
        Prompt("4", "pull", "a yellow duck with an orange beak"),
    ]


def accepted(delivery: Delivery) -> bool:
    """Whether the validator takes the result."""
    return delivery.score >= TIMING.quality_threshold


class MinerProcess:
    """The miner as an operator starts it; shows its log and collects how results were made."""

    def __init__(self, process: asyncio.subprocess.Process, started: float) -> None:
        self.ready = asyncio.Event()
        self.progress = asyncio.Event()
        self.answered = 0
        self.results: list[ResultLine] = []
        self._process = process
        self._started = started
        self._reader = asyncio.create_task(self._read())

    @staticmethod
    async def start(arguments: Sequence[str], started: float) -> MinerProcess:
        """python neurons/miner.py ARGUMENTS."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "neurons" / "miner.py"),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return MinerProcess(process, started)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            print(f"[{time.monotonic() - self._started:5.1f} s] miner: {line}", flush=True)
            if "| Ready:" in line:
                self.ready.set()
            if (result := ResultLine.parse(line)) is not None:
                self.results.append(result)
            if " submitted to " in line or " answered to " in line:
                self.answered += 1
                self.progress.set()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ended(self) -> int:
        """Its exit code, once its output has been read."""
        await asyncio.shield(self._reader)
        return await self._process.wait()

    async def stop(self) -> int:
        """Ask it to stop; its exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        return await asyncio.wait_for(self.ended(), STOP_TIMEOUT)


async def first_of(wanted: asyncio.Event, miner: MinerProcess, timeout: float) -> bool:  # noqa: ASYNC109
    """Whether the event came before the miner's end and the timeout."""
    waiting = asyncio.create_task(wanted.wait())
    ended = asyncio.create_task(miner.ended())
    done, pending = await asyncio.wait({waiting, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return waiting in done


async def all_delivered(validator: LocalValidator, miner: MinerProcess, count: int) -> bool:
    """Whether the miner knows that `count` results came in, before its end and the timeout."""
    while min(len(validator.deliveries), miner.answered) < count:
        miner.progress.clear()
        if not await first_of(miner.progress, miner, TASKS_TIMEOUT):
            return False
    return True


async def run_tasks(prompts: Sequence[Prompt], folder: Path, started: float) -> tuple[list[Delivery], list[ResultLine]]:
    """Start validator and miner, run the tasks, stop both; what came in and what the miner's log tells of it."""
    validator_wallet, miner_wallet = make_wallet(folder, "validator"), make_wallet(folder, "miner")
    miner_hotkey = miner_wallet.hotkey.ss58_address
    validator = LocalValidator(validator_wallet, free_port(), lambda hotkey: hotkey == miner_hotkey, TIMING)
    coldkey = validator.hotkey
    validator_neuron = Neuron(
        uid=0,
        hotkey=validator.hotkey,
        coldkey=coldkey,
        stake=VALIDATOR_STAKE,
        validator_permit=True,
        ip=LOOPBACK,
        port=validator.port,
    )
    miner_neuron = Neuron(uid=1, hotkey=miner_hotkey, coldkey=coldkey, ip=LOOPBACK, port=free_port())
    write_chain_file(folder / "chain.json", [validator_neuron, miner_neuron], NETUID)
    for prompt in prompts:
        if prompt.reference is not None:
            validator.add_reference(prompt.id, prompt.reference)
    await validator.start()
    validator.add_tasks(p.task for p in prompts if p.transport == "pull")
    arguments = ["--netuid", str(NETUID), "--phase", "demo", "--subtensor.network", f"file:{folder / 'chain.json'}"]
    arguments += ["--wallet.path", str(folder), "--wallet.name", "miner", "--wallet.hotkey", "default"]
    arguments += ["--axon.ip", LOOPBACK, "--axon.port", str(miner_neuron.port), "--monitor.port", "0"]
    miner = await MinerProcess.start(arguments, started)
    try:
        if await first_of(miner.ready, miner, READY_TIMEOUT):
            for prompt in prompts:
                if prompt.transport == "push":
                    request = Generate(task_type=prompt.task_type, prompt=prompt.text)
                    await validator.push(miner_neuron, request, prompt.id, TASKS_TIMEOUT)
            await all_delivered(validator, miner, len(prompts))
    finally:
        code = await miner.stop()
        await validator.stop()
    if code != ExitCode.CLEAN:
        print(f"The miner ended with exit code {code}", file=sys.stderr)
    return validator.deliveries, miner.results


def write_outputs(prompts: Sequence[Prompt], deliveries: Sequence[Delivery], output: Path) -> None:
    """N.spz as it came, N.ply of it, and N.png: the prompt beside four views."""
    output.mkdir(parents=True, exist_ok=True)
    for prompt in prompts:
        for suffix in ("ply", "spz", "png"):
            (output / f"{prompt.id}.{suffix}").unlink(missing_ok=True)
    shown = {prompt.id: prompt.shows for prompt in prompts}
    for delivery in deliveries:
        if delivery.splats is None:
            continue
        stem = output / delivery.task_id
        stem.with_suffix(".spz").write_bytes(delivery.data)
        stem.with_suffix(".ply").write_bytes(ply.to_bytes(delivery.splats))
        caption = f"task {delivery.task_id}, {delivery.transport}: {len(delivery.splats)} gaussians"
        draw_contact_sheet(shown[delivery.task_id], delivery.splats, caption).save(stem.with_suffix(".png"))


def print_table(prompts: Sequence[Prompt], deliveries: Sequence[Delivery], lines: Sequence[ResultLine]) -> None:
    """One row per task."""
    # A pushed task's name in the miner's log is the miner's own; there is one such task.
    made = {line.task_id if line.task_id in {p.id for p in prompts} else "push": line for line in lines}
    print(
        f"\n{'task':<5}{'way':<6}"
        + "".join(f"{stage:>14}" for stage in STAGES)
        + f"{'gaussians':>11}{'bytes':>9}  answer"
    )
    for prompt in prompts:
        line = made.get(prompt.id if prompt.transport == "pull" else "push")
        delivery = next((d for d in deliveries if d.task_id == prompt.id), None)
        seconds = "".join(f"{line.seconds[stage]:>12.2f} s" if line else f"{'-':>14}" for stage in STAGES)
        count = len(delivery.splats) if delivery and delivery.splats is not None else 0
        size = len(delivery.data) if delivery else 0
        verdict = delivery.verdict if delivery else "no answer"
        if delivery and delivery.likeness:
            verdict += f", likeness {delivery.likeness.score:.2f}"
        print(f"{prompt.id:<5}{prompt.transport:<6}{seconds}{count:>11}{size:>9}  {verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output")
    output: Path = parser.parse_args().output
    started = time.monotonic()
    prompts = demo_prompts()
    with tempfile.TemporaryDirectory() as folder:
        deliveries, lines = asyncio.run(run_tasks(prompts, Path(folder), started))
    write_outputs(prompts, deliveries, output)
    print_table(prompts, deliveries, lines)
    good = {delivery.task_id for delivery in deliveries if accepted(delivery)}
    print(f"\n{len(good)} of {len(prompts)} results accepted in {time.monotonic() - started:.0f} s")
    if good == {prompt.id for prompt in prompts}:
        print(f"Pictures and files: {output}/*.png, *.ply, *.spz")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
