"""The validators of a soak: they keep the subnet's rules, each with habits of its own, and write down what happens."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import bittensor as bt

from miner.localnet import Delivery, LocalValidator, MinerState, SubmissionVerdict, ValidatorTiming, check_result
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate, ImageTask, ProtocolTask, PullTask, SubmitResults, TextTask
from pipeline import Splats
from scripts.validation.soak.book import Book, Exchange, TaskFacts, Violation
from scripts.validation.soak.prompts import Prompts

# The subnet's, some fifteen times faster.
TIMING = ValidatorTiming(throttle_period=8, task_cooldown=20, cooldown_penalty=20, validation_lock=2)
PUSH_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0
# Scores on either side of the threshold.
GOOD, BAD = 0.9, 0.3


@dataclass(frozen=True)
class Habits:
    """What a validator does; shares are of its tasks, seconds a range.

    rejects, fails: results that it rejects or cannot validate. late: validations that take `late_seconds`, longer than
    the miner waits. idle: pulls that get no task. push_pause: between two pushes; None if it pushes none.
    """

    rejects: float = 0.0
    fails: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.3)
    late: float = 0.0
    late_seconds: float = 0.0
    idle: float = 0.0
    push_pause: tuple[float, float] | None = None


@dataclass
class Setting:
    """What all validators of a soak share.

    `favours` tells which results are accepted while an experiment is to be decided; None without one.
    """

    book: Book
    prompts: Prompts
    miner: Neuron
    gives_tasks: bool = True
    favours: Callable[[Splats], bool] | None = None


class NonceDendrite(Dendrite):
    """A client that remembers the nonce of its latest request, by which the miner names a pushed task."""

    nonce = 0

    def preprocess_synapse_for_request(self, target: bt.AxonInfo, synapse: bt.Synapse, timeout: float) -> bt.Synapse:
        """Sign a request."""
        signed = super().preprocess_synapse_for_request(target, synapse, timeout)
        self.nonce = int(synapse.dendrite.nonce)
        return signed


class SoakValidator(LocalValidator):
    """A validator with habits, which assigns tasks without end and writes what it knows into the book."""

    def __init__(self, name: str, wallet: bt.Wallet, port: int, habits: Habits, setting: Setting, seed: str) -> None:
        """Make one that listens on `port` and draws from `seed`."""
        hotkey = setting.miner.hotkey
        super().__init__(wallet, port, lambda key: key == hotkey, TIMING)
        self.name, self.habits, self.setting = name, habits, setting
        self._wallet, self._seed, self._rng = wallet, seed, random.Random(seed)  # noqa: S311
        self._pusher = NonceDendrite(wallet.hotkey)
        self._told: list[tuple[int, Exchange]] = []

    def successor(self, state: dict[str, MinerState]) -> "SoakValidator":
        """Return the same validator as it is after a restart with a saved state."""
        new = SoakValidator(
            self.name, self._wallet, self.port, self.habits, self.setting, f"{self._seed} {time.monotonic()}"
        )
        new.rules.restore_state(state)
        if state:
            new._told = self._told
        return new

    def _next_task(self) -> ProtocolTask | None:
        if not self.setting.gives_tasks or self._rng.random() < self.habits.idle:
            return None
        task_type, prompt = self.setting.prompts.draw(self._rng)
        task_id = f"{self.name}-{len(self.setting.book.tasks)}"
        self.setting.book.add(TaskFacts(self.name, self.hotkey, task_id, "pull", task_type, time.monotonic()))
        return TextTask(id=task_id, prompt=prompt) if task_type == "text" else ImageTask(id=task_id, prompt=prompt)

    async def pull(self, synapse: PullTask) -> PullTask:
        """Answer a pull, and write down if it came during a cooldown."""
        began, book = time.monotonic(), self.setting.book
        state = self.rules.miners.get(synapse.dendrite.hotkey, MinerState())
        before, early = state.violations, state.cooldown_until - time.time()
        await super().pull(synapse)
        if synapse.cooldown_violations > before:
            is_known = any(
                until >= state.cooldown_until and book.has_reached_miner(exchange) for until, exchange in self._told
            )
            book.violations.append(Violation(self.name, began, early, is_known))
        self._tell(synapse.cooldown_until, began)
        return synapse

    async def judge(self, synapse: SubmitResults) -> SubmissionVerdict:
        """Judge a submission, and write the verdict down."""
        began, task_id, book = time.monotonic(), synapse.task_id, self.setting.book
        book.submitted(self.hotkey, task_id, began)
        verdict = await super().judge(synapse)
        book.judged(self.hotkey, task_id, verdict, began)
        state = self.rules.miners.get(synapse.dendrite.hotkey, MinerState())
        book.keep_only(self.hotkey, state.task.id if state.task else None)
        self._tell(synapse.cooldown_until, began)
        return verdict

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        """Check a result after the time that it takes here, and return it with the score that this validator gives."""
        habits, rng = self.habits, self._rng
        await asyncio.sleep(habits.late_seconds if rng.random() < habits.late else rng.uniform(*habits.seconds))
        delivery, _ = await super().check(task, results)
        number = rng.random()
        if number < habits.fails:
            return delivery, None
        if delivery.splats is None:
            return delivery, 0.0
        favours = self.setting.favours
        is_good = number >= habits.fails + habits.rejects if favours is None else favours(delivery.splats)
        return delivery, GOOD if is_good else BAD

    def _deliver(self, delivery: Delivery) -> None:
        """Keep nothing: some hundred results would not fit into memory."""

    def _tell(self, until: int, began: float) -> None:
        self._told = [*self._told, (until, Exchange(began, time.monotonic()))][-8:]

    async def push_tasks(self, stopping: asyncio.Event) -> None:
        """Push one task after another until `stopping` is set."""
        pause = self.habits.push_pause
        while pause is not None and not stopping.is_set():
            await asyncio.sleep(self._rng.uniform(*pause))
            if self.setting.gives_tasks:
                await self._push_one()
        await self._pusher.aclose_session()

    async def _push_one(self) -> None:
        task_type, prompt = self.setting.prompts.draw(self._rng)
        request = Generate(task_type=task_type, prompt=prompt, seed=self._rng.randrange(1000))
        began = time.monotonic()
        answer = await self._pusher.ask(self.setting.miner, request, PUSH_TIMEOUT)
        facts = TaskFacts(self.name, self.hotkey, f"push-{self._pusher.nonce:x}", "push", task_type, began)
        terminal = answer.dendrite
        facts.reason = answer.error or terminal.status_message
        if terminal.status_code == 200 and answer.results:
            facts.first_arrival = time.monotonic()
            delivery = await asyncio.to_thread(check_result, facts.task_id, "push", answer.results)
            facts.verdict, facts.reason = "answered" if delivery.splats else "invalid", delivery.verdict
        elif terminal.status_code == 200:
            facts.verdict = "no_result"
        else:
            facts.verdict = "refused" if terminal.status_code else "unanswered"
        facts.closing = Exchange(began, time.monotonic())
        self.setting.book.add(facts)

    async def stop(self) -> None:
        """Stop listening, and wait until the requests in progress are answered."""
        await super().stop()
        server = self._axon.fast_server
        async with asyncio.timeout(STOP_TIMEOUT):
            # The server's thread offers no event.
            while server.server_state.connections or any(each.is_serving() for each in server.servers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
