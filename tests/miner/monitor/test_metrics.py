import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from miner.gpu.worker import WorkerStatus
from miner.ledger.events import Event, GenerationFailed, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.monitor import metrics as module
from miner.monitor.metrics import Metrics
from miner.monitor.status import ValidatorView
from miner.runtime.gpu_memory import GpuMemory
from tests.support.monitor import HOTKEYS, OK, FixedStatus, Site, one_task

TASK = {"transport": "pull", "type": "image", "phase": "phase3", "uid": "27", "hotkey": HOTKEYS[0]}


async def scrape(site: Site) -> list[Sample]:
    """All samples, read by Prometheus' own parser."""
    reply = await site.get("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    return [sample for family in text_string_to_metric_families(await reply.text()) for sample in family.samples]


def value(samples: list[Sample], name: str, **labels: str) -> float | None:
    """Of the one sample that has these labels."""
    found = [one.value for one in samples if one.name == f"sn17_miner_{name}" and labels.items() <= one.labels.items()]
    assert len(found) < 2, found
    return found[0] if found else None


def feed(metrics: Metrics, *events: Event) -> None:
    for event in events:
        metrics.observe(event)


async def test_a_task_from_assignment_to_verdict(site: Site) -> None:
    feed(site.metrics, *one_task(1), *one_task(2, outcome="rejected"), *one_task(3, phase="test3"))
    samples = await scrape(site)
    assert value(samples, "tasks_assigned_total", **TASK) == 2
    assert value(samples, "tasks_total", **TASK, outcome="accepted") == 1
    assert value(samples, "tasks_total", **TASK, outcome="rejected") == 1
    assert value(samples, "tasks_total", **TASK | {"phase": "test3"}, outcome="accepted") == 1
    assert value(samples, "stage_seconds_count", stage="structure", phase="phase3") == 2
    assert value(samples, "stage_seconds_sum", stage="structure", phase="phase3") == 3.2
    assert value(samples, "stage_seconds_bucket", stage="structure", phase="phase3", le="1.0") == 0
    assert value(samples, "stage_seconds_bucket", stage="structure", phase="phase3", le="2.0") == 2
    assert value(samples, "generation_seconds_sum", type="image", phase="phase3") == 7.0
    assert value(samples, "gaussians_bucket", phase="phase3", le="300000.0") == 0
    assert value(samples, "gaussians_bucket", phase="phase3", le="400000.0") == 2
    assert value(samples, "score_sum", phase="phase3", uid="27") == 0.71


async def test_only_a_verdict_ends_a_task_and_only_the_first(site: Site) -> None:
    assigned, generated, accepted = one_task(1)
    feed(site.metrics, assigned, generated, SubmissionAnswered(1, 9.0, Outcome.UNKNOWN))
    assert value(await scrape(site), "tasks_total", outcome="unknown") is None
    feed(site.metrics, accepted, SubmissionAnswered(1, 10.0, Outcome.REJECTED))
    samples = await scrape(site)
    assert value(samples, "tasks_total", outcome="accepted") == 1
    assert value(samples, "tasks_total", outcome="rejected") == 0


async def test_a_pushed_task_and_one_without_a_result(site: Site) -> None:
    assigned = one_task(1)[0]
    assert isinstance(assigned, TaskStarted)
    pushed = replace(assigned, key=2, transport="push", task_type="text")
    feed(site.metrics, assigned, GenerationFailed(1, 2.0, "why"), pushed, SubmissionAnswered(2, 3.0, Outcome.UNKNOWN))
    samples = await scrape(site)
    assert value(samples, "generations_failed_total", **TASK) == 1
    assert value(samples, "tasks_total", transport="push", type="text", outcome="unknown") == 1


async def test_what_belongs_to_no_known_task_is_passed_over(site: Site) -> None:
    feed(
        site.metrics,
        SubmissionAnswered(404, 1.0, Outcome.ACCEPTED, 0.9),
        ResultGenerated(404, 1.0, 1, (1,), {"a": 1.0}, {}, None, 1),
    )
    assert value(await scrape(site), "tasks_total") is None


def test_tasks_whose_end_never_comes_do_not_pile_up() -> None:
    metrics = Metrics(FixedStatus())
    for key in range(module.MAX_OPEN_TASKS + 5):
        metrics.observe(one_task(key)[0])
    assert len(metrics._open) == module.MAX_OPEN_TASKS


async def test_the_present_state(site: Site) -> None:
    now = time.time()
    cooling = ValidatorView(27, HOTKEYS[0], "waiting", now + 200, now + 100, 0, None)
    working = ValidatorView(142, HOTKEYS[1], "holding a task", None, None, 0, "t")
    site.status = replace(
        OK,
        validators=(cooling, working),
        own_gpus=(GpuMemory("cuda:0", "H200", 1, 2, 3),),
        workers=(
            WorkerStatus("this machine", "cuda:0", "busy", 1.5, 40, 37.5),
            WorkerStatus("far", "cuda:1", "lost", losses=8),
        ),
        restarts={"a loop": 4},
    )
    samples = await scrape(site)
    assert value(samples, "up") == value(samples, "pipeline_loaded") == 1
    assert value(samples, "queue_length") == 2
    assert value(samples, "metagraph_timestamp_seconds") == pytest.approx(now - 12.5, abs=60)
    assert value(samples, "start_timestamp_seconds") == pytest.approx(now - 60, abs=60)
    assert value(samples, "last_success_timestamp_seconds") == 1_700_000_000.0
    assert value(samples, "restarts_total", task="a loop") == 4
    assert value(samples, "events_total", event="generated") == 3
    assert [value(samples, "gpu_memory_bytes", kind=kind) for kind in ("allocated", "reserved", "total")] == [1, 2, 3]
    assert value(samples, "validator_cooldown_end_timestamp_seconds", hotkey=HOTKEYS[0]) == now + 100
    assert value(samples, "validator_next_pull_timestamp_seconds", hotkey=HOTKEYS[0]) == now + 200
    assert value(samples, "validator_cooldown_end_timestamp_seconds", uid="142") == 0
    assert value(samples, "validator_failures", uid="142") == 0
    assert value(samples, "worker_state", device="cuda:0", state="busy") == 1
    assert value(samples, "worker_state", place="far", device="cuda:1", state="lost") == 1
    assert value(samples, "worker_losses_total", device="cuda:1") == 8
    assert value(samples, "worker_busy_seconds", device="cuda:0") == 1.5
    assert value(samples, "worker_candidates_total", device="cuda:0") == 40
    assert value(samples, "worker_candidates_per_minute", device="cuda:0") == 37.5
    assert value(samples, "validator_stage", uid="142", stage="holding a task") == 1
    assert value(samples, "info", phase="phase3", version="1.2.3") == 1


async def test_what_is_not_known_yet_is_left_out(site: Site) -> None:
    site.status = replace(OK, status="starting", metagraph_age=None, last_success=None, validators=())
    samples = await scrape(site)
    assert value(samples, "up") == 0
    assert value(samples, "metagraph_timestamp_seconds") is value(samples, "last_success_timestamp_seconds") is None


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(FixedStatus()), Metrics(FixedStatus())
    first.observe(one_task(1)[0])
    assert second.registry.get_sample_value("sn17_miner_tasks_assigned_total", TASK) is None
    assert first.registry.get_sample_value("sn17_miner_tasks_assigned_total", TASK) == 1


async def test_counters_begin_with_0(site: Site) -> None:
    site.status = replace(OK, counters={}, config_hashes={"phase3": "cda3", "test3": "1a2b"})
    samples = await scrape(site)
    for phase in ("phase3", "test3"):
        for uid in ("27", "142"):
            for outcome in ("accepted", "rejected", "skipped"):
                labels = {"phase": phase, "uid": uid, "outcome": outcome, "type": "text"}
                assert value(samples, "tasks_total", **labels) == 0
            assert value(samples, "tasks_assigned_total", phase=phase, uid=uid, type="image") == 0
    assert value(samples, "events_total", event="accepted") == 0
    assert not [sample.name for sample in samples if sample.name.endswith("_created")]


async def test_validators_are_labels_only_as_long_as_they_are_few(site: Site) -> None:
    """Whoever is not in the metagraph, or comes after hundreds of others, has no series of their own."""
    assigned = one_task(1)[0]
    assert isinstance(assigned, TaskStarted)
    feed(site.metrics, replace(assigned, validator="5Unknown", uid=None))
    strangers = [replace(assigned, key=key, validator=f"5Hotkey{key}", uid=key % 256) for key in range(2, 400)]
    feed(site.metrics, *strangers)
    samples = await scrape(site)
    hotkeys = {sample.labels["hotkey"] for sample in samples if sample.name == "sn17_miner_tasks_assigned_total"}
    assert len(hotkeys) == module.MAX_VALIDATORS + 1
    assert value(samples, "tasks_assigned_total", hotkey="other", uid="") == 1 + len(strangers) - module.MAX_VALIDATORS
