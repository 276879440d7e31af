"""How the process ends when it cannot go on, and the exit codes of the whole project."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a process manager should make of our end."""

    CLEAN = 0
    FAILURE = 1
    OPERATOR_MISTAKE = 2
    NOT_REGISTERED = 3


class MinerError(Exception):
    """Ends the miner with `exit_code`; the message is all the operator needs to see."""

    exit_code = ExitCode.FAILURE


class OperatorError(MinerError):
    """Something only the operator can put right: the message names the culprit and the cure."""

    exit_code = ExitCode.OPERATOR_MISTAKE


class HotkeyNotRegistered(MinerError):  # noqa: N818 - a state, not a fault
    """Our hotkey is not registered on the subnet, be it no longer or not yet."""

    exit_code = ExitCode.NOT_REGISTERED


class ChainError(MinerError):
    """The chain cannot be read now; worth another try later."""
