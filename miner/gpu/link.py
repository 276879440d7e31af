"""What carries orders to a worker that lives elsewhere, and reports from it."""

from typing import Protocol

from miner.gpu import messages


class OutOfReach(Exception):  # noqa: N818 - a state, not a fault
    """What a worker would live in is not there at present, and may be there again; the message says why."""


class Link(Protocol):
    """One life of a worker: carries orders to it and reports from it. `send` and `kill` may be called on any thread."""

    def send(self, order: messages.Order) -> None:
        """Send an order, without waiting for it to arrive; one that cannot be sent is dropped."""

    def receive(self, timeout: float) -> messages.Report | None:
        """Return the next report, None if there is none within `timeout` seconds.

        Raises EOFError once it has ended; if it could not begin, OutOfReach, or OperatorError if only the operator can
        put that right.
        """

    def kill(self) -> None:
        """End the life, whatever it is doing."""

    def close(self) -> None:
        """End the life, if it has not, and free what it held; call this last."""

    def epitaph(self) -> str:
        """Return how it ended; call this after EOFError."""
