"""A hostile validator: what an honest one would answer, changed by a fuzzer."""

import json
import random
import time
from collections import Counter
from typing import Any

import bittensor as bt
from aiohttp import web

from miner.localnet import LOOPBACK, SubmissionVerdict, ValidatorRules
from miner.pull import OnCooldown, TaskAssigned, read_pull, read_submission
from miner.subnet.protocol import ImageTask, ProtocolTask, PullTask, SubmitResults, TextTask
from scripts.validation.hostile_answers import HOSTILE, mutate
from scripts.validation.soak.prompts import Prompts
from scripts.validation.soak.validators import TIMING

# The shares of the answers that are sent as they are, with some bytes changed, or with another status; others get a
# hostile value in a field.
HONEST, CHANGED, OTHER_STATUS = 0.4, 0.3, 0.1
STATUSES = (204, 302, 400, 401, 403, 404, 429, 500, 503)
# A miner believes a cooldown of up to an hour, and then nothing more would happen.
MAX_WAIT = 30.0


class HostileValidator:
    """Answers pulls and submissions with anything; `assigned` are the ids of tasks that a miner can read out of it."""

    def __init__(self, wallet: bt.Wallet, port: int, miner_hotkey: str, prompts: Prompts, seed: str) -> None:
        """Make one that listens on `port` and draws from `seed`."""
        self.hotkey: str = wallet.hotkey.ss58_address
        self.port = port
        self.assigned: set[str] = set()
        self.answers: Counter[str] = Counter()
        self._prompts, self._rng = prompts, random.Random(seed)  # noqa: S311
        self._rules = ValidatorRules(self.hotkey, self._next_task, lambda key: key == miner_hotkey, time.time, TIMING)
        self._runner: web.AppRunner | None = None
        self._count = 0

    def _next_task(self) -> ProtocolTask:
        self._count += 1
        task_type, prompt = self._prompts.draw(self._rng)
        task_id = f"hostile-{self._count}"
        return TextTask(id=task_id, prompt=prompt) if task_type == "text" else ImageTask(id=task_id, prompt=prompt)

    async def start(self) -> None:
        """Start to listen."""
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/PullTask", self._pull)
        application.router.add_post("/SubmitResults", self._submit)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _pull(self, request: web.Request) -> web.Response:
        synapse = PullTask()
        self._rules.pull(request.headers["bt_header_dendrite_hotkey"], synapse)
        return self._answer(synapse)

    async def _submit(self, request: web.Request) -> web.Response:
        content = await request.json()
        names = SubmitResults.model_fields.keys() - bt.Synapse.model_fields.keys()
        synapse = SubmitResults(**{name: content[name] for name in names if name in content})

        async def validate(_task: ProtocolTask, _results: str) -> float | None:
            return self._rng.choice((0.9, 0.3, None))

        hotkey = request.headers["bt_header_dendrite_hotkey"]
        if self._rules.find_refusal(hotkey) is not None:
            self.answers[SubmissionVerdict.WRONG_TASK.value] += 1
            return web.Response(status=403)
        verdict = await self._rules.submit(hotkey, synapse, validate)
        self.answers[verdict.value] += 1
        return self._answer(synapse)

    def _answer(self, synapse: PullTask | SubmitResults) -> web.Response:
        """Return the answer as it goes out."""
        honest = {
            name: value
            for name, value in synapse.model_dump().items()
            if name not in bt.Synapse.model_fields or name == "name"
        }
        while True:
            kind, body = self._fuzz(honest)
            if not self._silences(synapse, body):
                break
        self.answers[kind] += 1
        if kind == "other status":
            return web.Response(body=body, status=self._rng.choice(STATUSES), headers={"Location": "/elsewhere"})
        if isinstance(synapse, PullTask) and isinstance(response := read_pull(_read(synapse, body)), TaskAssigned):
            self.assigned.add(response.task.id)
        return web.Response(body=body, content_type="application/json")

    def _fuzz(self, honest: dict[str, Any]) -> tuple[str, bytes]:
        whole, number = json.dumps(honest).encode(), self._rng.random()
        if number < HONEST:
            return "honest", whole
        if number < HONEST + CHANGED:
            return "changed", mutate(whole, self._rng)
        if number < HONEST + CHANGED + OTHER_STATUS:
            return "other status", whole
        field = self._rng.choice(sorted(honest))
        others = {name: value for name, value in honest.items() if name != field}
        value = self._rng.choice(HOSTILE)
        return "hostile value", f'{json.dumps(others)[:-1]}, "{field}": {value}}}'.encode()

    def _silences(self, synapse: PullTask | SubmitResults, body: bytes) -> bool:
        """Return whether an answer would keep the miner away for longer than the soak should wait."""
        answer, now = _read(synapse, body), time.time()
        if isinstance(answer, PullTask):
            response = read_pull(answer)
            if isinstance(response, OnCooldown):
                return response.until - now > MAX_WAIT
            # The hour that is told to hotkeys that are not registered.
            return not isinstance(response, TaskAssigned) and answer.cooldown_until > 0
        submission = read_submission(answer, is_skip=False, is_repeat=False, validator_time=now)
        return submission.cooldown_until - now > MAX_WAIT


def _read(synapse: PullTask | SubmitResults, body: bytes) -> Any:
    """Return the synapse as a miner reads it out of an answer; an empty one if it cannot be read."""
    kind = type(synapse)
    own = {name: getattr(synapse, name) for name in kind.model_fields.keys() - bt.Synapse.model_fields.keys()}
    answered = bt.TerminalInfo(status_code=200)
    try:
        content = json.loads(body)
        answer = kind.model_validate(own | {name: content[name] for name in own if name in content})
    except (ValueError, TypeError, RecursionError):
        return PullTask(dendrite=bt.TerminalInfo(status_code=0)) if kind is PullTask else synapse
    answer.dendrite = answered
    return answer
