"""Signals while imports and files take their seconds: nothing has been begun, so a stop ends the process at once."""

import os
import signal
import time
from types import FrameType

from miner.errors import ExitCode


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end the process cleanly, and SIGHUP do nothing, until somebody else handles them.

    Until there is something to finish, that is: Python would end with a traceback or another exit code.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _end(number: int, _frame: FrameType | None) -> None:
    # Not with print, which the signal may have interrupted.
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    os.write(1, f"{moment} | INFO | {signal.Signals(number).name} received before anything was begun\n".encode())
    os._exit(ExitCode.CLEAN)
