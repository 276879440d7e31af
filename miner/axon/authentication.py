"""Who may come in: signature, clock, policy, replays, rate and room, all told from a request's headers alone.

A request is signed over its nonce (time.time_ns() of the sender), both hotkeys, the sender's session and the hash of
its body. A stranger can cause one signature check and nothing more; what is remembered is remembered of allowed callers
only.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import bittensor as bt

from miner.config.settings import ServingSettings
from miner.policy.policy import PolicyDecision

NANOSECONDS = 1_000_000_000
# What the SDK's client sends, by the field of Caller it fills, and what it may look like.
CALLER_HEADERS = {
    "hotkey": ("bt_header_dendrite_hotkey", r"[1-9A-HJ-NP-Za-km-z]{40,60}"),
    "nonce": ("bt_header_dendrite_nonce", r"[0-9]{1,20}"),
    "session": ("bt_header_dendrite_uuid", r"[\w.:-]{1,64}"),
    "signature": ("bt_header_dendrite_signature", r"0x[0-9a-fA-F]{128}"),
    "body_hash": ("computed_body_hash", r"[0-9a-f]{64}"),
}


class RequestRefused(Exception):  # noqa: N818 - an answer, not a fault
    """A request is answered with an HTTP status and a message instead of a result."""

    def __init__(self, status: int, message: str, detail: str = "", retry_after: int | None = None) -> None:
        """`detail` is for our log only; `retry_after`: seconds after which another try makes sense."""
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True)
class Caller:
    """Who says to have sent a request, and the proof."""

    hotkey: str
    nonce: int
    session: str
    signature: str
    body_hash: str

    @staticmethod
    def read(headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Raises RequestRefused (401) unless each of the headers is there, once and in shape."""
        values: dict[str, str] = {}
        wanted = {name: (field, shape) for field, (name, shape) in CALLER_HEADERS.items()}
        for raw_name, raw_value in headers:
            name = raw_name.decode("latin-1").lower()
            if name not in wanted:
                continue
            field, shape = wanted[name]
            value = raw_value.decode("latin-1")
            if field in values or not re.fullmatch(shape, value, re.ASCII):
                raise RequestRefused(401, f"the header {name} is malformed")
            values[field] = value
        for field, (name, _) in CALLER_HEADERS.items():
            if field not in values:
                raise RequestRefused(401, f"the header {name} is missing")
        return Caller(nonce=int(values.pop("nonce")), **values)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The inverse of `read`."""
        return [(name.encode(), str(getattr(self, field)).encode()) for field, (name, _) in CALLER_HEADERS.items()]

    def is_genuine(self, receiver: str) -> bool:
        """Whether the hotkey signed this request, to the hotkey `receiver`."""
        message = f"{self.nonce}.{self.hotkey}.{receiver}.{self.session}.{self.body_hash}"
        try:
            return bool(bt.Keypair(ss58_address=self.hotkey).verify(message, self.signature))
        except ValueError:
            return False


class ReplayWindow:
    """Refuses nonces that are far from our clock, older than ourselves, or were used before, whoever used them."""

    def __init__(self, window: float, now: float) -> None:
        """`window` in seconds to either side; `now` in unix seconds, as everywhere here."""
        self._window = int(window * NANOSECONDS)
        # What was sent before we started may have been answered by the process before us.
        self._started = int(now * NANOSECONDS)
        self._used: set[int] = set()
        self._oldest: list[int] = []

    def __len__(self) -> int:
        return len(self._used)

    def problem(self, nonce: int, now: float) -> str | None:
        """Why a nonce cannot be taken, None if it can."""
        ahead = nonce - int(now * NANOSECONDS)
        if abs(ahead) > self._window:
            how = f"{abs(ahead) / NANOSECONDS:.1f} s {'ahead of' if ahead > 0 else 'behind'} our clock"
            return f"the nonce is {how}, at most {self._window / NANOSECONDS:g} s are allowed"
        if nonce < self._started:
            return "the nonce is from before this miner started"
        return "the nonce was used before" if nonce in self._used else None

    def remember(self, nonce: int, now: float) -> None:
        """Never take this nonce again."""
        self._used.add(nonce)
        heapq.heappush(self._oldest, nonce)
        # Too old to be taken again in any case.
        while self._oldest[0] < int(now * NANOSECONDS) - self._window:
            self._used.discard(heapq.heappop(self._oldest))


class RateLimit:
    """A token bucket for each hotkey: a minute's worth at once, then one for each minute's share that passes."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, hotkey: str, now: float) -> float:
        """0 if the hotkey may go on, else the seconds it must wait."""
        tokens, since = self._buckets.get(hotkey, (self._per_minute, now))
        tokens = min(tokens + max(now - since, 0.0) * self._per_minute / 60, self._per_minute)
        wait = max(1 - tokens, 0.0) * 60 / self._per_minute
        self._buckets[hotkey] = (tokens if wait else tokens - 1, now)
        return wait


class Authenticator:
    """Decides on requests by their headers; one thread only."""

    def __init__(
        self,
        receiver: str,
        decide: Callable[[str], PolicyDecision],
        settings: ServingSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`receiver` is our hotkey; `clock` tells unix seconds."""
        self._receiver = receiver
        self._decide = decide
        self._settings = settings
        self._clock = clock
        self._replays = ReplayWindow(settings.replay_window, clock())
        self._rate = RateLimit(settings.requests_per_minute)
        self._in_hand: Counter[str] = Counter()

    def admit(self, caller: Caller) -> None:
        """Raises RequestRefused with 401, 403 or 429."""
        now = self._clock()
        problem = self._replays.problem(caller.nonce, now)
        if problem is None and not caller.is_genuine(self._receiver):
            problem = "the signature does not fit"
        if problem is not None:
            raise RequestRefused(401, problem)
        self.check_policy(caller.hotkey)
        wait = self._rate.take(caller.hotkey, now)
        if wait:
            per_minute = self._settings.requests_per_minute
            raise RequestRefused(429, f"more than {per_minute:g} requests a minute", retry_after=int(wait) + 1)
        self._replays.remember(caller.nonce, now)

    def check_policy(self, hotkey: str) -> None:
        """Raises RequestRefused (403). Which rule it was stays with us: reasons in the blacklist are the operator's notes."""
        decision = self._decide(hotkey)
        if not decision.allowed:
            raise RequestRefused(403, "this miner does not work for this hotkey", decision.reason)

    @contextmanager
    def room(self, hotkey: str) -> Iterator[None]:
        """A place among the requests in hand, as long as the context lasts. Raises RequestRefused (503) if there is none."""
        settings = self._settings
        # The one that is being generated does not wait.
        if self._in_hand.total() > settings.queue_size:
            raise RequestRefused(503, "busy: too many requests are waiting, come back later", retry_after=10)
        if self._in_hand[hotkey] >= settings.per_validator:
            raise RequestRefused(503, "busy: too many of your requests are waiting, come back later", retry_after=10)
        self._in_hand[hotkey] += 1
        try:
            yield
        finally:
            self._in_hand[hotkey] -= 1
            self._in_hand += Counter()
