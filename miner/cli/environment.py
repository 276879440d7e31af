"""Environment variables of the Bittensor SDK that end its import, or that have no effect on this miner.

Those that set an option of `sn17-miner run` are named in its --help.
"""

import os
from collections.abc import Iterator

from miner.errors import OperatorError

# The SDK parses these when it is imported.
NUMBERS = ("BT_AXON_PORT", "BT_AXON_MAX_WORKERS", "BT_PRIORITY_MAX_WORKERS", "BT_PRIORITY_MAXSIZE")
# Lets the SDK parse our command line with options of its own, and end the process over ours.
PARSING = "BT_NO_PARSE_CLI_ARGS"
LOG_FOLDER = "the log is on stdout and in the folder logs of --state"
SERVING = "the keys of `serving` in the settings file limit requests"
WITHOUT_EFFECT = {
    "BT_AXON_MAX_WORKERS": SERVING,
    "BT_PRIORITY_MAX_WORKERS": SERVING,
    "BT_PRIORITY_MAXSIZE": SERVING,
    "BT_LOGGING_TRACE": "--logging.debug writes more lines into the log",
    "BT_LOGGING_RECORD_LOG": LOG_FOLDER,
    "BT_LOGGING_LOGGING_DIR": LOG_FOLDER,
    "BT_LOGGING_ENABLE_THIRD_PARTY_LOGGERS": "--logging.debug writes more lines into the log",
    PARSING: "the miner alone parses its command line",
}


def prepare_for_sdk() -> None:
    """Keep variables from ending the import of the SDK. Raises OperatorError for one that is no number."""
    for name in NUMBERS:
        value = os.environ.get(name)
        if value and not value.strip().removeprefix("-").isdecimal():
            raise OperatorError(f"the environment variable {name} must be a whole number, not {value!r}: correct it")
    # The value of today's default.
    if os.environ.get(PARSING):
        os.environ[PARSING] = "true"


def default_chain() -> str:
    """Return the chain that the environment names, for commands that are not told one: else finney."""
    return os.environ.get("BT_SUBTENSOR_CHAIN_ENDPOINT") or os.environ.get("BT_SUBTENSOR_NETWORK") or "finney"


def unused_variables() -> Iterator[str]:
    """Yield a sentence for each variable that is set and has no effect on this miner."""
    for name, instead in WITHOUT_EFFECT.items():
        if os.environ.get(name):
            yield f"The environment variable {name} has no effect: {instead}"
