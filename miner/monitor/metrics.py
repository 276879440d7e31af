"""GET /metrics for Prometheus: counters and histograms of the ledger's events, and gauges of the present status."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from miner.ledger.events import Event, GenerationFailed, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.monitor.status import Status, StatusSource

PREFIX = "sn17_miner"
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
GAUSSIANS_BUCKETS = (7e3, 2.5e4, 5e4, 1e5, 2e5, 3e5, 4e5, 5e5, 6e5, 8e5, 1e6)
# Tasks whose outcome is awaited; validators that never answer must not make this grow.
MAX_OPEN_TASKS = 4096


class _Task(NamedTuple):
    transport: str
    type: str
    phase: str


class Metrics:
    """A registry of its own with all metrics of a miner."""

    def __init__(self, source: StatusSource) -> None:
        """Begin with zero counts; gauges show the status of `source`."""
        self.registry = CollectorRegistry()
        self._open: OrderedDict[int, _Task] = OrderedDict()
        self._assigned = Counter(
            f"{PREFIX}_tasks_assigned", "Tasks that validators assigned.", _Task._fields, registry=self.registry
        )
        self._ended = Counter(
            f"{PREFIX}_tasks",
            "Tasks by outcome; only the final one counts.",
            (*_Task._fields, "outcome"),
            registry=self.registry,
        )
        self._failed = Counter(
            f"{PREFIX}_generations_failed",
            "Tasks for which no result could be generated.",
            _Task._fields,
            registry=self.registry,
        )
        self._stages = Histogram(
            f"{PREFIX}_stage_seconds",
            "Seconds of each stage of a generation.",
            ("stage", "phase"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_generation_seconds",
            "Seconds of all stages of a generation together.",
            ("type", "phase"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._gaussians = Histogram(
            f"{PREFIX}_gaussians",
            "Number of gaussians of a result.",
            ("phase",),
            buckets=GAUSSIANS_BUCKETS,
            registry=self.registry,
        )
        self._scores = Histogram(
            f"{PREFIX}_score",
            "Scores of accepted results; validators do not disclose those of rejected ones.",
            ("phase",),
            buckets=tuple(step / 20 for step in range(10, 21)),
            registry=self.registry,
        )
        self.registry.register(_StatusCollector(source))

    def routes(self) -> list[web.RouteDef]:
        """Return the route, for the server."""
        return [web.get("/metrics", self.page)]

    async def page(self, _request: web.Request) -> web.Response:
        """Return all metrics in the exposition format."""
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def observe(self, event: Event) -> None:
        """Count an event of a task, from any thread; other events are ignored."""
        if isinstance(event, TaskStarted):
            task = _Task(event.transport, event.task_type, event.assignment.phase)
            self._open[event.key] = task
            if len(self._open) > MAX_OPEN_TASKS:
                self._open.popitem(last=False)
            self._assigned.labels(*task).inc()
            return
        if not isinstance(event, ResultGenerated | GenerationFailed | SubmissionAnswered):
            return
        known_task = self._open.get(event.key)
        if known_task is None:
            return
        match event:
            case ResultGenerated():
                for stage, seconds in event.seconds.items():
                    self._stages.labels(stage, known_task.phase).observe(seconds)
                self._seconds.labels(known_task.type, known_task.phase).observe(sum(event.seconds.values()))
                if "gaussians" in event.statistics:
                    self._gaussians.labels(known_task.phase).observe(event.statistics["gaussians"])
            case GenerationFailed():
                self._failed.labels(*known_task).inc()
            case SubmissionAnswered():
                self._observe_answer(event, known_task)

    def _observe_answer(self, event: SubmissionAnswered, task: _Task) -> None:
        # A pushed task gets no other outcome.
        if event.outcome.closes or task.transport == "push":
            self._open.pop(event.key, None)
            self._ended.labels(*task, event.outcome).inc()
            if event.outcome is Outcome.ACCEPTED and event.score:
                self._scores.labels(task.phase).observe(event.score)


class _StatusCollector(Collector):
    """The gauges of the status at the moment of the scrape."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """Return all gauges that have a value yet."""
        status = self._source.status()
        yield InfoMetricFamily(PREFIX, "Build and phase.", {"version": status.version, "phase": status.phase})
        yield _gauge("up", "1 if the miner takes tasks.", float(status.able_to_work))
        yield _gauge("pipeline_loaded", "1 once the models are loaded and warm.", float(status.pipeline_loaded))
        yield _gauge("queue_length", "Tasks whose generation has not begun.", status.queue)
        yield _gauge("uptime_seconds", "Seconds since the start.", status.uptime)
        if status.metagraph_age is not None:
            yield _gauge("metagraph_age_seconds", "Seconds since the metagraph was read.", status.metagraph_age)
        if status.last_success is not None:
            yield _gauge("last_success_timestamp_seconds", "Unix time of the last result.", status.last_success)
        yield from _labelled_gauges(status)
        if status.ledger is not None:
            yield _gauge("ledger_waiting_records", "Records that are waiting to be written.", status.ledger.waiting)
            dropped = CounterMetricFamily(
                f"{PREFIX}_ledger_dropped_records", "Records that were lost.", status.ledger.dropped
            )
            yield dropped


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, value)


def _labelled_gauges(status: Status) -> Iterable[Metric]:
    memory = GaugeMetricFamily(f"{PREFIX}_gpu_memory_bytes", "Memory of the GPUs.", labels=("device", "kind"))
    for gpu in status.gpus:
        for kind in ("allocated", "reserved", "total"):
            memory.add_metric((gpu.device, kind), getattr(gpu, kind))
    yield memory
    restarts = CounterMetricFamily(f"{PREFIX}_restarts", "Restarts of background tasks that failed.", labels=("task",))
    for task, count in status.restarts.items():
        restarts.add_metric((task,), count)
    yield restarts
    events = CounterMetricFamily(f"{PREFIX}_events", "The counters of the log's totals.", labels=("event",))
    for event, count in status.counters.items():
        events.add_metric((event,), count)
    yield events
    names = ("uid", "hotkey")
    cooldown = GaugeMetricFamily(
        f"{PREFIX}_validator_cooldown_seconds",
        "Seconds until the end of the cooldown that a validator imposed.",
        labels=names,
    )
    wait = GaugeMetricFamily(
        f"{PREFIX}_validator_next_pull_seconds", "Seconds until the next pull from a validator.", labels=names
    )
    stage = GaugeMetricFamily(
        f"{PREFIX}_validator_stage", "1 for the present stage of a validator.", labels=(*names, "stage")
    )
    now = time.time()
    for view in status.validators:
        labels = (str(view.uid), view.hotkey)
        cooldown.add_metric(labels, max((view.cooldown_end or now) - now, 0.0))
        wait.add_metric(labels, max((view.next_pull or now) - now, 0.0))
        stage.add_metric((*labels, view.stage), 1)
    yield from (cooldown, wait, stage)
