"""GET /metrics, for Prometheus: what the ledger's events tell of tasks, and the present state."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from miner.ledger.events import Event, GenerationFailed, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.schema import CLOSED
from miner.monitor.status import Status

PREFIX = "sn17_miner"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
GAUSSIANS = (7e3, 2.5e4, 5e4, 1e5, 2e5, 3e5, 4e5, 5e5, 6e5, 8e5, 1e6)
# Tasks whose end is awaited; a validator that never answers must not make this grow.
MOST_OPEN = 4096


class _Task(NamedTuple):
    transport: str
    type: str
    phase: str


class Metrics:
    """One registry. `observe` takes what the ledger is told, from any thread; `status` as for Monitor."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self.registry = CollectorRegistry()
        self._open: OrderedDict[int, _Task] = OrderedDict()
        self._assigned = Counter(
            f"{PREFIX}_tasks_assigned", "Tasks that validators handed out.", _Task._fields, registry=self.registry
        )
        self._ended = Counter(
            f"{PREFIX}_tasks",
            "Tasks by how they ended; a verdict counts once.",
            (*_Task._fields, "outcome"),
            registry=self.registry,
        )
        self._failed = Counter(
            f"{PREFIX}_generations_failed", "Tasks without a result of ours.", _Task._fields, registry=self.registry
        )
        self._stages = Histogram(
            f"{PREFIX}_stage_seconds",
            "Seconds of each stage of a generation.",
            ("stage", "phase"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_generation_seconds",
            "Seconds of all stages of a generation together.",
            ("type", "phase"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._gaussians = Histogram(
            f"{PREFIX}_gaussians", "Gaussians of a result.", ("phase",), buckets=GAUSSIANS, registry=self.registry
        )
        self._scores = Histogram(
            f"{PREFIX}_score",
            "Scores of accepted results; those of rejected ones are not told.",
            ("phase",),
            buckets=tuple(step / 20 for step in range(10, 21)),
            registry=self.registry,
        )
        self.registry.register(_Present(status))

    def routes(self) -> list[web.RouteDef]:
        """For the server."""
        return [web.get("/metrics", self.page)]

    async def page(self, _request: web.Request) -> web.Response:
        """The exposition format."""
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def observe(self, event: Event) -> None:
        """Count an event of a task; others are passed over."""
        if isinstance(event, TaskStarted):
            task = _Task(event.transport, event.task_type, event.phase)
            self._open[event.key] = task
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            self._assigned.labels(*task).inc()
            return
        found = (
            self._open.get(event.key)
            if isinstance(event, ResultGenerated | GenerationFailed | SubmissionAnswered)
            else None
        )
        if found is None:
            return
        match event:
            case ResultGenerated():
                for stage, seconds in event.seconds.items():
                    self._stages.labels(stage, found.phase).observe(seconds)
                self._seconds.labels(found.type, found.phase).observe(sum(event.seconds.values()))
                if "gaussians" in event.statistics:
                    self._gaussians.labels(found.phase).observe(event.statistics["gaussians"])
            case GenerationFailed():
                self._failed.labels(*found).inc()
            case SubmissionAnswered():
                self._answered(event, found)

    def _answered(self, event: SubmissionAnswered, task: _Task) -> None:
        # A pushed task has no verdict to wait for.
        if event.outcome in CLOSED or task.transport == "push":
            self._open.pop(event.key, None)
            self._ended.labels(*task, event.outcome).inc()
            if event.outcome == "accepted" and event.score:
                self._scores.labels(task.phase).observe(event.score)


class _Present(Collector):
    """The state at the moment of the scrape."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """All gauges; those without a value yet are left out."""
        status = self._status()
        yield InfoMetricFamily(PREFIX, "Build and phase.", {"version": status.version, "phase": status.phase})
        yield _gauge("up", "1 if tasks are taken.", float(status.able_to_work))
        yield _gauge("pipeline_loaded", "1 once the models are loaded and warm.", float(status.pipeline_loaded))
        yield _gauge("queue_length", "Tasks whose generation has not begun.", status.queue)
        yield _gauge("uptime_seconds", "Seconds since the start.", status.uptime)
        if status.metagraph_age is not None:
            yield _gauge("metagraph_age_seconds", "Seconds since the metagraph was seen.", status.metagraph_age)
        if status.last_success is not None:
            yield _gauge(
                "last_success_timestamp_seconds", "When the last result was gallery_result.", status.last_success
            )
        yield from _labelled(status)
        if status.ledger is not None:
            yield _gauge("ledger_waiting_records", "Records that are not written yet.", status.ledger.waiting)
            dropped = CounterMetricFamily(f"{PREFIX}_ledger_dropped_records", "Records lost.", status.ledger.dropped)
            yield dropped


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, value)


def _labelled(status: Status) -> Iterable[Metric]:
    memory = GaugeMetricFamily(f"{PREFIX}_gpu_memory_bytes", "Memory of the GPUs.", labels=("device", "kind"))
    for gpu in status.gpus:
        for kind in ("allocated", "reserved", "total"):
            memory.add_metric((gpu.device, kind), getattr(gpu, kind))
    yield memory
    restarts = CounterMetricFamily(f"{PREFIX}_restarts", "Background tasks that died and began anew.", labels=("task",))
    for task, count in status.restarts.items():
        restarts.add_metric((task,), count)
    yield restarts
    events = CounterMetricFamily(f"{PREFIX}_events", "The counters of the log's totals.", labels=("event",))
    for event, count in status.counters.items():
        events.add_metric((event,), count)
    yield events
    names = ("uid", "hotkey")
    cooldown = GaugeMetricFamily(
        f"{PREFIX}_validator_cooldown_seconds", "What is left of the cooldown a validator imposed.", labels=names
    )
    wait = GaugeMetricFamily(f"{PREFIX}_validator_next_pull_seconds", "Until a validator is asked again.", labels=names)
    stage = GaugeMetricFamily(f"{PREFIX}_validator_stage", "1 for the present stage.", labels=(*names, "stage"))
    now = time.time()
    for view in status.validators:
        labels = (str(view.uid), view.hotkey)
        cooldown.add_metric(labels, max((view.cooldown_end or now) - now, 0.0))
        wait.add_metric(labels, max((view.next_pull or now) - now, 0.0))
        stage.add_metric((*labels, view.stage), 1)
    yield from (cooldown, wait, stage)
