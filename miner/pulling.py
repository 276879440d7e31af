"""Pulling: one loop per validator that pulls a task, has it generated and submits the result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import bittensor as bt

from miner.answers import Outcome, read_pull, read_submission
from miner.chain import Neuron, Snapshot
from miner.dendrite import Dendrite
from miner.logs import shown
from miner.policy import Decision
from miner.protocol import ProtocolTask, PullTask, signed_submission
from miner.settings import PullingSettings
from miner.tasks import Task, TaskRunner
from pipeline import Cancelled, PipelineError

log = logging.getLogger(__name__)


class ValidatorLoop:
    """Works for one validator; one call at a time, as the validator's nonces demand."""

    def __init__(
        self,
        validator: Neuron,
        keypair: bt.Keypair,
        runner: TaskRunner,
        decide: Callable[[str], Decision],
        settings: PullingSettings,
    ) -> None:
        self.validator = validator
        self._keypair = keypair
        self._runner = runner
        self._decide = decide
        self._settings = settings
        self._dendrite = Dendrite(keypair)
        self._failures = 0
        # The last task's id and result, for the case that its submission did not arrive.
        self._finished = ("", "")

    @property
    def _name(self) -> str:
        return f"validator {self.validator.uid} ({self.validator.hotkey[:8]})"

    async def run(self) -> None:
        """Until cancelled."""
        log.info("Pulling from %s at %s:%d", self._name, self.validator.ip, self.validator.port)
        try:
            while True:  # noqa: ASYNC110 - how long to sleep is the cycle's answer
                await asyncio.sleep(await self._cycle())
        finally:
            await self._dendrite.aclose_session()

    async def _cycle(self) -> float:
        """One pull and, if it brings a task, one submission; the seconds to wait before the next."""
        answer = read_pull(
            await self._dendrite.ask(self.validator, PullTask(), self._settings.pull_timeout),
            time.time(),
            self._failures,
        )
        if answer.task is None:
            self._failures = self._failures + 1 if answer.failed else 0
            level = logging.WARNING if answer.failed else logging.INFO
            log.log(level, "No task of %s: %s; next pull in %.0f s", self._name, answer.reason, answer.delay)
            return answer.delay
        self._failures = 0
        self._runner.counters["pulled"] += 1
        task = answer.task
        log.info("Task %s: pulled from %s, %s", shown(task.id), self._name, task.type)
        results = await self._results(task)
        decision = self._decide(self.validator.hotkey)
        if not decision.allowed:
            log.warning("Task %s: result withheld from %s: %s", shown(task.id), self._name, decision.reason)
            return self._settings.submit_timeout
        return await self._submit(task, results)

    async def _results(self, task: ProtocolTask) -> str:
        """The result in base64, or an empty string, which skips the task without a penalty."""
        finished_id, finished_results = self._finished
        if task.id == finished_id:
            log.info("Task %s: handed back, its result is sent again", shown(task.id))
            return finished_results
        priority = self._decide(self.validator.hotkey).priority
        try:
            result = await self._runner.run(Task(task.id, task.type, task.prompt, priority))
        except Cancelled:
            # We are stopping; the validator hands the task back after the restart.
            raise asyncio.CancelledError from None
        except PipelineError:
            return ""
        return result.base64

    async def _submit(self, task: ProtocolTask, results: str) -> float:
        self._finished = (task.id, results)
        submission = signed_submission(task, results, time.time_ns(), self._keypair, self.validator.hotkey)
        response = await self._dendrite.ask(self.validator, submission, self._settings.submit_timeout)
        answer = read_submission(response, skipped=not results, now=time.time())
        self._runner.counters[answer.outcome.value] += 1
        expected = answer.outcome in (Outcome.ACCEPTED, Outcome.SKIPPED)
        log.log(
            logging.INFO if expected else logging.WARNING,
            "Task %s: %s to %s: %s",
            shown(task.id),
            f"{len(results)} bytes submitted" if results else "empty result submitted",
            self._name,
            answer.reason,
        )
        return answer.delay


class Puller:
    """Keeps one loop running for each validator that the policy allows and that serves an axon."""

    def __init__(
        self,
        keypair: bt.Keypair,
        runner: TaskRunner,
        decide: Callable[[str], Decision],
        settings: PullingSettings,
    ) -> None:
        self._keypair = keypair
        self._runner = runner
        self._decide = decide
        self._settings = settings
        self._loops: dict[Neuron, asyncio.Task[None]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Start and stop loops to fit the snapshot; loops that died are logged and started again."""
        wanted = {
            _address(neuron)
            for neuron in snapshot.neurons
            if neuron.is_serving and neuron.hotkey != self._keypair.ss58_address and self._decide(neuron.hotkey).allowed
        }
        for validator, loop in list(self._loops.items()):
            if loop.done():
                if not loop.cancelled() and loop.exception() is not None:
                    log.error(
                        "The loop of validator %d died and starts again", validator.uid, exc_info=loop.exception()
                    )
                del self._loops[validator]
            elif validator not in wanted:
                log.info("No more pulling from validator %d (%s)", validator.uid, validator.hotkey[:8])
                loop.cancel()
                del self._loops[validator]
        for validator in wanted - self._loops.keys():
            worker = ValidatorLoop(validator, self._keypair, self._runner, self._decide, self._settings)
            self._loops[validator] = asyncio.create_task(worker.run(), name=f"validator-{validator.uid}")
        if not self._loops:
            log.warning("No validator to pull from: none that serves an axon is allowed by config/blacklist.yaml")

    async def stop(self) -> None:
        """End all loops."""
        loops = list(self._loops.values())
        self._loops.clear()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def _address(neuron: Neuron) -> Neuron:
    """The neuron without what changes from block to block, so that a loop is kept while its validator stays put."""
    return neuron.model_copy(update={"stake": 0.0, "incentive": 0.0, "validator_permit": False})
