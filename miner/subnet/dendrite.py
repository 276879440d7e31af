"""The client that calls the axons of other neurons."""

import asyncio
import json
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import bittensor as bt

from miner.subnet.metagraph import Neuron

# The HTTP statuses with which the SDK's axon answers requests that never reach the function they are for.
REFUSED_STATUSES = frozenset({400, 401, 403, 404})
# In place of a status where there is no connection, no answer in time, or none that can be read.
NO_STATUS = 0
MAX_ANSWER_BYTES = 20_000_000
# Answers up to this size are parsed on the event loop.
INLINE_BYTES = 100_000
# The names of zlib's window sizes, see zlib.decompressobj: automatic detection of gzip and zlib.
ANY_ZLIB_HEADER = 47

AnySynapse = TypeVar("AnySynapse", bound=bt.Synapse)


@dataclass(frozen=True, eq=False)
class Reply(Generic[AnySynapse]):
    """The outcome of an exchange: the synapse, whose dendrite.status_code says whether it was answered, with what.

    `delivered` is False if no connection could be made or the axon refused the request, so that it certainly had no
    effect; `connected` is False in the first case only. `date` is the other side's unix time in whole seconds, from its
    Date header, or None if there was none.
    """

    synapse: AnySynapse
    delivered: bool
    date: float | None
    connected: bool = True


class Transport(Protocol):
    """The part of a Dendrite that pulling uses."""

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse and wait `timeout` seconds at most for the answer; raise nothing."""

    async def aclose_session(self) -> None:
        """Close the connections."""


class Dendrite(bt.Dendrite):
    """A client for one neuron and one call at a time, which signs as the SDK's does and trusts no answer.

    The SDK's own `call` follows redirects, reads answers of any size, lets them replace the synapse's other fields and
    keeps all of them.
    """

    def __init__(self, keypair: bt.Keypair, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        """Set what the SDK's constructor sets, except for our address; read answers of at most `max_answer_bytes`.

        The SDK blocks while it asks third parties on the internet for our address; it is only a header that the other
        side overwrites.
        """
        self.uuid = str(uuid.uuid1())
        self.external_ip = "0.0.0.0"  # noqa: S104
        self.keypair = keypair
        self._session: aiohttp.ClientSession | None = None
        self._max_answer_bytes = max_answer_bytes
        self._last_nonce = 0

    def __del__(self) -> None:
        """Do nothing, since owners close the session; the SDK would close it on another event loop, with a warning."""

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse to a neuron's axon; whatever goes wrong is in the reply's status and not raised."""
        if not neuron.is_serving:
            message = f"{neuron.ip!r} port {neuron.port} is no address of an axon"
            return _reply(synapse, NO_STATUS, message, None, delivered=False, connected=False)
        url = axon_url(neuron, type(synapse).__name__)
        target = bt.AxonInfo(
            version=0, ip=neuron.ip, port=neuron.port, ip_type=4, hotkey=neuron.hotkey, coldkey=neuron.coldkey
        )
        self._sign(target, synapse, timeout)
        date: float | None = None
        try:
            async with (
                asyncio.timeout(timeout),
                self._http().post(
                    url, headers=synapse.to_headers(), json=synapse.model_dump(), allow_redirects=False
                ) as response,
            ):
                date = _parse_date(response.headers.get("Date"))
                body = await _read_body(response, self._max_answer_bytes)
            if response.status != 200:
                message = response.headers.get("bt_header_axon_status_message") or _error_message(body)
                is_delivered = response.status not in REFUSED_STATUSES
                return _reply(synapse, response.status, message, date, is_delivered)
            if len(body) > INLINE_BYTES:
                return _reply(await asyncio.to_thread(_parse_answer, synapse, body), 200, "", date)
            return _reply(_parse_answer(synapse, body), 200, "", date)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL):
            message = f"no connection to {neuron.ip} port {neuron.port}"
            return _reply(synapse, NO_STATUS, message, None, delivered=False, connected=False)
        except TimeoutError:
            return _reply(synapse, NO_STATUS, f"no answer within {timeout:g} s", None)
        except Exception as error:  # an answer may be wrong in any way, and none may stop the caller
            return _reply(synapse, NO_STATUS, f"no usable answer: {type(error).__name__}: {error}", date)

    async def ask(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> AnySynapse:  # noqa: ASYNC109
        """Send a synapse to a neuron's axon and return it with the answer."""
        return (await self.exchange(neuron, synapse, timeout)).synapse

    def _sign(self, target: bt.AxonInfo, synapse: bt.Synapse, timeout: float) -> None:
        """Sign a request, under another id if our clock was set back.

        An axon refuses nonces below the last one of the same id, so that after an hour on a wrong clock it would refuse
        everything for an hour.
        """
        self.preprocess_synapse_for_request(target, synapse, timeout)
        if synapse.dendrite.nonce <= self._last_nonce:
            self.uuid = str(uuid.uuid1())
            self.preprocess_synapse_for_request(target, synapse, timeout)
        self._last_nonce = synapse.dendrite.nonce

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Each request has a connection of its own: validators close idle ones after five seconds, and a submission
            # that meets a closing one might have arrived. Answers are decompressed here, within the limit.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


def axon_url(neuron: Neuron, route: str) -> str:
    """Return the URL of a route of a neuron's axon."""
    host = f"[{neuron.ip}]" if ":" in neuron.ip else neuron.ip
    return f"http://{host}:{neuron.port}/{route}"


async def _read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read an answer, decompressed. Raise ValueError if it has more than `limit` bytes or an unknown compression."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise ValueError("the answer is compressed with a method that was not asked for")
    inflater = zlib.decompressobj(ANY_ZLIB_HEADER) if encoding in ("gzip", "deflate") else None
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk if inflater is None else inflater.decompress(chunk, limit + 1 - len(body))
        if len(body) > limit:
            raise ValueError(f"the answer has more than {limit} bytes")
    return bytes(body)


def _parse_answer(synapse: AnySynapse, body: bytes) -> AnySynapse:
    """Return the synapse with the fields of its message as an answer has them. Raise ValueError if they are invalid."""
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("the answer is not an object")
    # Everything that bt.Synapse itself has is ours: who sent what to whom, and how it went.
    names = type(synapse).model_fields.keys() - bt.Synapse.model_fields.keys()
    own = {name: getattr(synapse, name) for name in names}
    answer: AnySynapse = type(synapse).model_validate(own | {name: content[name] for name in names if name in content})
    return answer


def _reply(
    synapse: AnySynapse, status: int, message: str, date: float | None, delivered: bool = True, connected: bool = True
) -> Reply[AnySynapse]:
    synapse.dendrite = bt.TerminalInfo(status_code=status, status_message=message)
    return Reply(synapse, delivered, date, connected)


def _error_message(body: bytes) -> str:
    """Return the `message` of an answer that is an error, "" if it has none."""
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = content.get("message") if isinstance(content, dict) else None
    return message if isinstance(message, str) else ""


def _parse_date(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date) if date else None
        if moment is None:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
