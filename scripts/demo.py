"""Run a miner and a local validator on this machine: three images and a text, and images of the results.

    python -m scripts.demo [--output demo-output]

The validator knows two of the objects, and compares their results with the objects seen from the front and from behind;
of the others it checks validity alone. Exits with 0 only if it accepts all results.
"""

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

import torch
from PIL import Image

from miner.errors import ExitCode
from miner.localnet import LOOPBACK, Delivery, LocalValidator, ValidatorTiming, free_port, make_wallet, write_chain_file
from miner.runtime import ResultLine
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ImageTask, TextTask
from pipeline import STAGES, ReferenceViews, ply
from pipeline.rendering.contact_sheet import draw_contact_sheet
from scripts.train_tiny.eval.metrics import render_object, view_cameras
from scripts.train_tiny.eval.samples import held_out_object, render_prompt

NETUID = 17
READY_TIMEOUT = 180.0
TASKS_TIMEOUT = 180.0
STOP_TIMEOUT = 30.0
HELD_OUT_OBJECTS = (2, 11)
# With the subnet's cooldown of 300 s, the demo would take minutes.
TIMING = ValidatorTiming(throttle_period=0, task_cooldown=2, cooldown_penalty=0, validation_lock=0)


@dataclass(frozen=True)
class DemoTask:
    """A task with an image or a text as its prompt, and views of the object where it is known."""

    id: str
    transport: Literal["pull", "push"]
    prompt: Image.Image | str
    reference: ReferenceViews | None = None

    @property
    def task_type(self) -> Literal["image", "text"]:
        """The type of the task in the protocol."""
        return "text" if isinstance(self.prompt, str) else "image"

    @property
    def prompt_text(self) -> str:
        """The prompt in the protocol: an image's file in base64, a text as it is."""
        if isinstance(self.prompt, str):
            return self.prompt
        buffer = io.BytesIO()
        self.prompt.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    @property
    def protocol_task(self) -> ImageTask | TextTask:
        """The task that a miner pulls."""
        task_class = TextTask if self.task_type == "text" else ImageTask
        return task_class(id=self.id, prompt=self.prompt_text)


def object_task(task_id: str, number: int) -> DemoTask:
    """Return a task with the image of an object that the embedded checkpoint was not trained on."""
    _, single = held_out_object(number, torch.device("cpu"))
    return DemoTask(task_id, "pull", render_prompt(single), ReferenceViews(view_cameras(), render_object(single)))


def demo_tasks() -> list[DemoTask]:
    """Return a photograph from scikit-image, which is opaque, two objects with an alpha channel, and a text."""
    from skimage import data

    return [
        DemoTask("1", "push", Image.fromarray(data.coffee())),
        object_task("2", HELD_OUT_OBJECTS[0]),
        object_task("3", HELD_OUT_OBJECTS[1]),
        DemoTask("4", "pull", "a yellow duck with an orange beak"),
    ]


def is_accepted(delivery: Delivery) -> bool:
    """Return whether the validator accepts the result."""
    return delivery.score >= TIMING.quality_threshold


class MinerProcess:
    """The miner as an operator starts it; prints its log and collects its lines about results."""

    def __init__(self, process: asyncio.subprocess.Process, started: float) -> None:
        """Begin to read the log of a process; `started` is the moment that times are printed from."""
        self.ready = asyncio.Event()
        self.progress = asyncio.Event()
        self.delivered = 0
        self.results: list[ResultLine] = []
        self.lines: list[str] = []
        self._process = process
        self._started = started
        self._reader = asyncio.create_task(self._read_log())

    @staticmethod
    async def start(folder: Path, port: int, started: float, monitor_port: int = 0) -> "MinerProcess":
        """Start the miner with the demo phase, and chain.json and the wallet "miner" of a folder; 0 is no monitor."""
        chain = f"file:{folder / 'chain.json'}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "miner", "run", "--netuid", str(NETUID), "--phase", "demo"),
            *("--subtensor.network", chain, "--wallet.path", str(folder), "--wallet.name", "miner"),
            *("--axon.ip", LOOPBACK, "--axon.port", str(port), "--monitor.port", str(monitor_port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return MinerProcess(process, started)

    async def _read_log(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            self.tell(line)
            if "| Ready:" in line:
                self.ready.set()
            if (result := ResultLine.parse(line)) is not None:
                self.results.append(result)
            if " submitted to " in line or " answered to " in line:
                self.delivered += 1
                self.progress.set()

    def tell(self, line: str) -> None:
        """Print a line of the log with the time since the start."""
        print(f"[{time.monotonic() - self._started:5.1f} s] miner: {line}", flush=True)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process and of its log; return the exit code."""
        await asyncio.shield(self._reader)
        return await self._process.wait()

    async def wait_for(self, event: asyncio.Event, timeout: float) -> bool:  # noqa: ASYNC109
        """Return True once the event is set, False at the process's end or after the timeout."""
        waiting, ended = asyncio.create_task(event.wait()), asyncio.create_task(self.wait())
        done, pending = await asyncio.wait({waiting, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return waiting in done

    async def kill(self) -> None:
        """End the process as a power cut would."""
        self._process.kill()
        await self.wait()

    async def stop(self) -> int:
        """Ask the process to stop; return its exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        return await asyncio.wait_for(self.wait(), STOP_TIMEOUT)


async def run_tasks(tasks: Sequence[DemoTask], folder: Path, started: float) -> tuple[list[Delivery], list[ResultLine]]:
    """Run the tasks between a validator and a miner; return the deliveries and the results in the miner's log."""
    validator_wallet, miner_wallet = make_wallet(folder, "validator"), make_wallet(folder, "miner")
    miner_hotkey = miner_wallet.hotkey.ss58_address
    validator = LocalValidator(validator_wallet, free_port(), lambda hotkey: hotkey == miner_hotkey, TIMING)
    hotkey, port = validator.hotkey, validator.port
    validator_neuron = Neuron(
        uid=0, hotkey=hotkey, coldkey=hotkey, stake=5000, validator_permit=True, ip=LOOPBACK, port=port
    )
    miner_neuron = Neuron(uid=1, hotkey=miner_hotkey, coldkey=miner_hotkey, ip=LOOPBACK, port=free_port())
    write_chain_file(folder / "chain.json", [validator_neuron, miner_neuron], NETUID)
    for task in tasks:
        if task.reference is not None:
            validator.add_reference(task.id, task.reference)
    await validator.start()
    validator.add_tasks(task.protocol_task for task in tasks if task.transport == "pull")
    miner = await MinerProcess.start(folder, miner_neuron.port, started)
    try:
        if await miner.wait_for(miner.ready, READY_TIMEOUT):
            for task in tasks:
                if task.transport == "push":
                    request = Generate(task_type=task.task_type, prompt=task.prompt_text)
                    await validator.push(miner_neuron, request, task.id, TASKS_TIMEOUT)
            # A delivery is over when the miner has logged it, too.
            while min(len(validator.deliveries), miner.delivered) < len(tasks):
                miner.progress.clear()
                if not await miner.wait_for(miner.progress, TASKS_TIMEOUT):
                    break
    finally:
        exit_code = await miner.stop()
        await validator.stop()
    if exit_code != ExitCode.CLEAN:
        print(f"The miner ended with exit code {exit_code}", file=sys.stderr)
    return validator.deliveries, miner.results


def write_outputs(tasks: Sequence[DemoTask], deliveries: Sequence[Delivery], output: Path) -> None:
    """Write N.spz as delivered, the same splats as N.ply, and N.png with the prompt beside four views."""
    output.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        for suffix in ("ply", "spz", "png"):
            (output / f"{task.id}.{suffix}").unlink(missing_ok=True)
    prompts = {task.id: task.prompt for task in tasks}
    for delivery in deliveries:
        if delivery.splats is None:
            continue
        stem = output / delivery.task_id
        stem.with_suffix(".spz").write_bytes(delivery.data)
        stem.with_suffix(".ply").write_bytes(ply.to_bytes(delivery.splats))
        caption = f"task {delivery.task_id}, {delivery.transport}: {len(delivery.splats)} gaussians"
        draw_contact_sheet(prompts[delivery.task_id], delivery.splats, caption).save(stem.with_suffix(".png"))


def print_table(tasks: Sequence[DemoTask], deliveries: Sequence[Delivery], results: Sequence[ResultLine]) -> None:
    """Print one row per task."""
    # The miner itself names pushed tasks, of which there is one.
    ids = {task.id for task in tasks}
    by_id = {result.task_id if result.task_id in ids else "push": result for result in results}
    stages = "".join(f"{stage:>14}" for stage in STAGES)
    print(f"\n{'task':<5}{'way':<6}{stages}{'gaussians':>11}{'bytes':>9}  answer")
    for task in tasks:
        result = by_id.get(task.id if task.transport == "pull" else "push")
        delivery = next((d for d in deliveries if d.task_id == task.id), None)
        seconds = "".join(f"{result.seconds[stage]:>12.2f} s" if result else f"{'-':>14}" for stage in STAGES)
        count = len(delivery.splats) if delivery and delivery.splats is not None else 0
        size = len(delivery.data) if delivery else 0
        verdict = delivery.verdict if delivery else "no answer"
        if delivery and delivery.likeness:
            verdict += f", likeness {delivery.likeness.score:.2f}"
        print(f"{task.id:<5}{task.transport:<6}{seconds}{count:>11}{size:>9}  {verdict}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    output: Path = parser.parse_args().output
    started = time.monotonic()
    tasks = demo_tasks()
    with tempfile.TemporaryDirectory() as folder:
        deliveries, results = asyncio.run(run_tasks(tasks, Path(folder), started))
    write_outputs(tasks, deliveries, output)
    print_table(tasks, deliveries, results)
    accepted = {delivery.task_id for delivery in deliveries if is_accepted(delivery)}
    print(f"\n{len(accepted)} of {len(tasks)} results accepted in {time.monotonic() - started:.0f} s")
    if accepted == {task.id for task in tasks}:
        print(f"Pictures and files: {output}/*.png, *.ply, *.spz")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
