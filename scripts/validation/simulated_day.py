"""Simulate a day of pulling in seconds: the miner's own sessions against models of validators, in virtual time.

    python -m scripts.validation.simulated_day [--hours 24] [--validators 7] [--seed 0]

Real are the state machine, the sessions, the puller, the supervisor, the store of cooldowns, and signatures with their
checks. Simulated are the network (delays, time-outs, lost answers), the validators (miner/localnet/validator_rules.py,
the rules of the subnet's own), a generator that takes eight seconds, and restarts of the miner. Validators go down,
restart with a state up to ten minutes old, reject some results, fail to validate others, and their clocks are off by
up to a minute; sessions crash now and then of a simulated bug.

The last line is a JSON document. Exits with 0 only if no cooldown was violated that the miner could know of, no task
was lost, and accepted results are within 2 % of what an omniscient miner gets from the same validators. Recorded
results: simulated_day.md beside this file.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miner.config import PullingSettings
from miner.localnet import SubmissionVerdict, ValidatorTiming
from miner.policy import PolicyDecision
from miner.pull import CooldownStore, Puller, SessionContext
from miner.runtime import Clock, Supervisor
from miner.subnet.metagraph import Snapshot
from scripts.validation import simulated_network as simulated

# The least share of the results of an omniscient miner.
MIN_SHARE = 0.98
Restarts = Sequence[tuple[float, float]]


async def simulate(network: simulated.SimulatedNetwork, seconds: float, restarts: Restarts, folder: Path) -> None:
    """Mine for a number of seconds; `restarts` are (begin, end) of the times in which the miner is down."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time, lambda: simulated.UNIX_START + loop.time(), asyncio.sleep)
    snapshot = Snapshot(17, 1, tuple(validator.neuron for validator in network.validators.values()))
    stakes = {neuron.hotkey: neuron.stake for neuron in snapshot.neurons}
    validators = [asyncio.create_task(validator.run()) for validator in network.validators.values()]
    store = CooldownStore(folder / "cooldowns.json")
    for begin, end in (*restarts, (seconds, seconds)):
        supervisor = Supervisor(clock)
        context = SessionContext(
            network.keypair,
            simulated.SimulatedRunner(network.rng),  # type: ignore[arg-type]
            lambda hotkey: PolicyDecision(True, "", stakes[hotkey]),
            PullingSettings(),
            clock,
        )
        puller = Puller(context, supervisor, store, lambda: network)
        puller.update(snapshot)
        await asyncio.sleep(begin - loop.time())
        # Killed, not stopped: the miner loses the tasks in hand, and gets them again.
        await supervisor.stop()
        network.session_crashes += supervisor.restarts.total()
        await asyncio.sleep(end - loop.time())
    for task in validators:
        task.cancel()
    await asyncio.gather(*validators, return_exceptions=True)


def count_possible(network: simulated.SimulatedNetwork, seconds: float, restarts: Restarts) -> int:
    """Return the accepted results of an omniscient miner: no delays, no margins, and a generator for each validator.

    It is subject only to what no miner can avoid: outages, its own restarts, and the same verdicts in the same order.
    """
    timing, accepted = ValidatorTiming(), 0
    for validator in network.validators.values():
        verdicts, outages = itertools.cycle(validator.verdicts), (*restarts, *validator.scenario.outages)
        now = 0.0
        while True:
            while (later := next((end for begin, end in outages if begin <= now < end), now)) > now:
                now = later
            if now >= seconds:
                break
            verdict = next(verdicts)
            accepted += verdict is SubmissionVerdict.ACCEPTED
            now += timing.task_cooldown + (timing.cooldown_penalty if verdict is SubmissionVerdict.REJECTED else 0)
    return accepted


def run(hours: float, validators: int, seed: int) -> dict[str, Any]:
    """Run one simulation; return its figures."""
    rng = random.Random(seed)  # noqa: S311
    seconds = hours * 3600
    scenarios = [simulated.draw_scenario(rng, seconds) for _ in range(validators)]
    begins = sorted(rng.uniform(0.1, 0.9) * seconds for _ in range(max(round(hours / 8), 1)))
    restarts = [(begin, begin + rng.uniform(15, 90)) for begin in begins]
    models = [simulated.SimulatedValidator(uid, scenario) for uid, scenario in enumerate(scenarios)]
    network = simulated.SimulatedNetwork(models, rng)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=simulated.VirtualTimeLoop) as runner:
        runner.run(simulate(network, seconds, restarts, Path(folder)))
    verdicts = Counter(verdict for model in models for verdict in model.verdicts)
    # A task that is held at the end is neither ended nor lost.
    lost = [v.assigned - v.ended - v.forgotten - simulated.held_tasks(v.rules.miners) for v in models]
    accepted, possible = verdicts[SubmissionVerdict.ACCEPTED], count_possible(network, seconds, restarts)
    return {
        "hours": hours,
        "validators": validators,
        "seed": seed,
        "our_restarts": len(restarts),
        "our_loops_died": network.session_crashes,
        "outages": sum(len(scenario.outages) for scenario in scenarios),
        "assigned": sum(len(v.assigned) for v in models),
        "lost": sum(len(tasks) for tasks in lost),
        "forgotten_by_validators": sum(len(v.forgotten) for v in models),
        "violations_of_known_cooldowns": sum(v.known_violations for v in models),
        "violations_to_learn": sum(v.unknown_violations for v in models),
        "late": sum(v.late for v in models),
        "verdicts": {verdict.value: verdicts[verdict] for verdict in SubmissionVerdict if verdict in verdicts},
        "ignored_submissions": sum(v.ignored for v in models),
        "accepted_per_hour": round(accepted / hours, 2),
        "possible_per_hour": round(possible / hours, 2),
        "share_of_possible": round(accepted / possible, 4),
    }


def has_passed(figures: dict[str, Any]) -> bool:
    """Return whether the figures are as they should be."""
    is_faultless = figures["violations_of_known_cooldowns"] == 0 and figures["lost"] == 0
    return is_faultless and bool(figures["share_of_possible"] >= MIN_SHARE)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--validators", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures = run(arguments.hours, arguments.validators, arguments.seed)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<32}{value}")
    print(json.dumps(figures))
    return 0 if has_passed(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
