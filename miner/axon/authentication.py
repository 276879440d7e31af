"""Admission of requests by their headers alone: signature, clock, replays, policy, rate and queue.

A request is signed over its nonce (time.time_ns() of the sender), both hotkeys, the sender's session and the hash of
its body. A sender that is not allowed can cause one signature check and nothing more: state is kept for allowed callers
only.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bittensor as bt

from miner.axon.replays import ReplayWindow
from miner.config import ServingSettings
from miner.policy import PolicyDecision
from miner.runtime import SYSTEM_CLOCK, Clock

# By field of Caller, the header that the SDK's client sends and the pattern of its value.
CALLER_HEADERS = {
    "hotkey": ("bt_header_dendrite_hotkey", r"[1-9A-HJ-NP-Za-km-z]{40,60}"),
    "nonce": ("bt_header_dendrite_nonce", r"[0-9]{1,20}"),
    "session": ("bt_header_dendrite_uuid", r"[\w.:-]{1,64}"),
    "signature": ("bt_header_dendrite_signature", r"0x[0-9a-fA-F]{128}"),
    "body_hash": ("computed_body_hash", r"[0-9a-f]{64}"),
}
FIELDS_BY_HEADER = {header: (field, pattern) for field, (header, pattern) in CALLER_HEADERS.items()}


class RequestRefused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is answered with an HTTP status and a message instead of a result."""

    def __init__(self, status: int, message: str, detail: str = "", retry_after: int | None = None) -> None:
        """Refuse with a message for the sender, a detail for our log, and the seconds after which to try again."""
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True)
class Caller:
    """The sender that a request claims, and the signature that proves it."""

    hotkey: str
    nonce: int
    session: str
    signature: str
    body_hash: str

    @staticmethod
    def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> "Caller":
        """Read the caller. Raises RequestRefused (401) unless each header is there, once and well formed."""
        values: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name = raw_name.decode("latin-1").lower()
            if name not in FIELDS_BY_HEADER:
                continue
            field, pattern = FIELDS_BY_HEADER[name]
            value = raw_value.decode("latin-1")
            if field in values or not re.fullmatch(pattern, value, re.ASCII):
                raise RequestRefused(401, f"the header {name} is malformed")
            values[field] = value
        for field, (name, _) in CALLER_HEADERS.items():
            if field not in values:
                raise RequestRefused(401, f"the header {name} is missing")
        return Caller(nonce=int(values.pop("nonce")), **values)

    def to_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers from which `from_headers` reads this caller."""
        return [(name.encode(), str(getattr(self, field)).encode()) for field, (name, _) in CALLER_HEADERS.items()]

    def has_valid_signature(self, receiver: str) -> bool:
        """Return whether the caller's hotkey signed this request to the hotkey `receiver`."""
        message = f"{self.nonce}.{self.hotkey}.{receiver}.{self.session}.{self.body_hash}"
        try:
            return bool(bt.Keypair(ss58_address=self.hotkey).verify(message, self.signature))
        except ValueError:
            return False


@dataclass(eq=False)
class RateLimit:
    """A token bucket for each hotkey, which holds a minute's worth of requests and refills steadily."""

    per_minute: float
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, hotkey: str, now: float) -> float:
        """Take a token and return 0; if there is none, return the seconds until there will be one; `now` is steady."""
        tokens, since = self._buckets.get(hotkey, (self.per_minute, now))
        tokens = min(tokens + max(now - since, 0.0) * self.per_minute / 60, self.per_minute)
        wait = max(1 - tokens, 0.0) * 60 / self.per_minute
        self._buckets[hotkey] = (tokens if wait else tokens - 1, now)
        return wait


class Authenticator:
    """Admits or refuses requests by their headers; not thread-safe."""

    def __init__(
        self,
        receiver: str,
        decide: Callable[[str], PolicyDecision],
        settings: ServingSettings,
        clock: Clock = SYSTEM_CLOCK,
        nonces: Path | None = None,
    ) -> None:
        """Admit requests to the hotkey `receiver`, ours; `decide` is the policy, `nonces` the file of used ones."""
        self._receiver = receiver
        self._decide = decide
        self._settings = settings
        self._clock = clock
        self._replays = ReplayWindow(settings.replay_window, clock, nonces)
        self._rate = RateLimit(settings.requests_per_minute)
        self._in_progress: Counter[str] = Counter()

    def admit(self, caller: Caller) -> None:
        """Raise RequestRefused unless the caller is genuine (401), allowed (403) and within its rate (429)."""
        problem = self._replays.find_problem(caller.nonce)
        if problem is None and not caller.has_valid_signature(self._receiver):
            problem = "the signature does not match"
        if problem is not None:
            raise RequestRefused(401, problem)
        decision = self._decide(caller.hotkey)
        if not decision.allowed:
            # The reason is only for our log: reasons on the blacklist are the operator's notes.
            raise RequestRefused(403, "this miner does not work for this hotkey", decision.reason)
        wait = self._rate.take(caller.hotkey, self._clock.now())
        if wait:
            per_minute = self._settings.requests_per_minute
            raise RequestRefused(429, f"more than {per_minute:g} requests a minute", retry_after=int(wait) + 1)
        self._replays.remember(caller.nonce)

    @property
    def in_progress(self) -> int:
        """The number of requests that hold a place in the queue; may be read on any thread."""
        return sum(tuple(self._in_progress.values()))

    @contextmanager
    def reserve(self, hotkey: str) -> Iterator[None]:
        """Hold a place in the queue while the context lasts. Raises RequestRefused (503) if the queue is full."""
        settings = self._settings
        # One more than the queue's size, for the request that is being generated.
        if self._in_progress.total() > settings.queue_size:
            raise RequestRefused(503, "busy: too many requests are waiting, come back later", retry_after=10)
        if self._in_progress[hotkey] >= settings.per_validator:
            raise RequestRefused(503, "busy: too many of your requests are waiting, come back later", retry_after=10)
        self._in_progress[hotkey] += 1
        try:
            yield
        finally:
            self._in_progress[hotkey] -= 1
            self._in_progress += Counter()  # drops hotkeys without requests
