"""A subnet on this machine, with a validator that keeps the rules of subnet 17, for the demo and the tests."""

from miner.localnet.synthetic_ledger import TASKS_PER_HOUR, fill_ledger, synthesise_events
from miner.localnet.validator import (
    LOOPBACK,
    Delivery,
    LocalValidator,
    check_result,
    free_port,
    make_wallet,
    write_chain_file,
)
from miner.localnet.validator_rules import MinerState, SubmissionVerdict, ValidatorRules, ValidatorTiming

__all__ = [
    "LOOPBACK", "TASKS_PER_HOUR", "Delivery", "LocalValidator", "MinerState", "SubmissionVerdict", "ValidatorRules",
    "ValidatorTiming", "check_result", "fill_ledger", "free_port", "make_wallet", "synthesise_events",
    "write_chain_file",
]  # fmt: skip
