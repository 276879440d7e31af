"""What any part of a long-running process needs: time, threads, supervision, files, logs and facts about itself."""

from miner.runtime.clock import SYSTEM_CLOCK, Clock, backoff
from miner.runtime.connection_limit import BURST_FACTOR, SPARE_FILES, ConnectionLimit, raise_file_limit
from miner.runtime.files import FileWatcher, locked, opened_folder, write_atomically
from miner.runtime.heap import return_large_pieces, trim_heap
from miner.runtime.logging import PACKAGES, ResultLine, configure, log_to_files, sanitise_name, sanitise_text
from miner.runtime.pid_file import claim_folder, find_owner
from miner.runtime.supervisor import Supervisor
from miner.runtime.threads import ImpatientExecutor, Returned, run_in_daemon
from miner.runtime.version import code_version, installed_version

__all__ = [
    "BURST_FACTOR", "PACKAGES", "SPARE_FILES", "SYSTEM_CLOCK", "Clock", "ConnectionLimit", "FileWatcher",
    "ImpatientExecutor", "ResultLine", "Returned", "Supervisor", "backoff", "claim_folder", "code_version", "configure",
    "find_owner", "installed_version", "locked", "log_to_files", "opened_folder", "raise_file_limit",
    "return_large_pieces", "run_in_daemon", "sanitise_name", "sanitise_text", "trim_heap", "write_atomically",
]  # fmt: skip
