"""GET /metrics for Prometheus: counters and histograms of the ledger's events, and gauges of the present status.

Moments are unix seconds, so that `time() - …` is their age. Counters of the validators that are pulled from, and of the
phases that run, begin with 0, so that the first event is an increase.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from miner.ledger import Event, GenerationFailed, Outcome, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.monitor.status import Status, StatusSource

PREFIX = "sn17_miner"
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
GAUSSIANS_BUCKETS = (7e3, 2.5e4, 5e4, 1e5, 2e5, 3e5, 4e5, 5e5, 6e5, 8e5, 1e6)
SCORE_BUCKETS = tuple(step / 20 for step in range(10, 21))
# Tasks whose outcome is awaited; validators that never answer must not make this grow.
MAX_OPEN_TASKS = 4096
# Validators with series of their own, as many as a subnet has neurons; all that come later are one.
MAX_VALIDATORS = 256
# Outcomes that are counted from 0.
EXPECTED = (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.SKIPPED)
EXPECTED_EVENTS = ("pulled", "pushed", "generated", *EXPECTED)

# The time at which a series was created, a series more for each of them, which nothing here needs.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Validator(NamedTuple):
    uid: str
    hotkey: str


OTHERS = _Validator("", "other")


class _Task(NamedTuple):
    transport: str
    type: str
    phase: str
    uid: str
    hotkey: str


class Metrics:
    """A registry of its own with all metrics of a miner."""

    def __init__(self, source: StatusSource) -> None:
        """Begin with zero counts; gauges show the status of `source`."""
        self.registry = CollectorRegistry()
        self._source = source
        self._open: OrderedDict[int, _Task] = OrderedDict()
        self._validators: set[str] = set()
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self._assigned = counter("tasks_assigned", "Tasks that validators assigned.", _Task._fields)
        self._ended = counter("tasks", "Tasks by outcome; only the final one counts.", (*_Task._fields, "outcome"))
        self._failed = counter("generations_failed", "Tasks for which no result could be generated.", _Task._fields)
        text = "Seconds of each stage of a generation."
        self._stages = histogram("stage_seconds", text, ("stage", "phase"), buckets=SECONDS_BUCKETS)
        text = "Seconds of all stages of a generation together."
        self._seconds = histogram("generation_seconds", text, ("type", "phase"), buckets=SECONDS_BUCKETS)
        text = "Number of gaussians of a result."
        self._gaussians = histogram("gaussians", text, ("phase",), buckets=GAUSSIANS_BUCKETS)
        text = "Scores of accepted results; validators do not disclose those of rejected ones."
        self._scores = histogram("score", text, ("phase", *_Validator._fields), buckets=SCORE_BUCKETS)
        self.registry.register(_StatusCollector(source))

    def routes(self) -> list[web.RouteDef]:
        """Return the route, for the server."""
        return [web.get("/metrics", self.page)]

    async def page(self, _request: web.Request) -> web.Response:
        """Return all metrics in the exposition format."""
        self._begin_with_zero(self._source.status())
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def observe(self, event: Event) -> None:
        """Count an event of a task, from any thread; other events are ignored."""
        if isinstance(event, TaskStarted):
            validator = self._validator(event.validator, event.uid)
            self._open[event.key] = task = _Task(event.transport, event.task_type, event.assignment.phase, *validator)
            self._expect(task)
            if len(self._open) > MAX_OPEN_TASKS:
                self._open.popitem(last=False)
            self._assigned.labels(*task).inc()
        elif isinstance(event, ResultGenerated | GenerationFailed | SubmissionAnswered) and event.key in self._open:
            self._observe_known(event, self._open[event.key])

    def _begin_with_zero(self, status: Status) -> None:
        for view in status.validators:
            validator = self._validator(view.hotkey, view.uid)
            for phase in status.config_hashes:
                for task_type in ("text", "image"):
                    self._expect(_Task("pull", task_type, phase, *validator))

    def _expect(self, task: _Task) -> None:
        self._assigned.labels(*task)
        self._failed.labels(*task)
        for outcome in EXPECTED:
            self._ended.labels(*task, outcome)

    def _validator(self, hotkey: str, uid: int | None) -> _Validator:
        """Return the labels of a validator; one that is not in the metagraph, or one too many, has no own."""
        if uid is None or (hotkey not in self._validators and len(self._validators) >= MAX_VALIDATORS):
            return OTHERS
        self._validators.add(hotkey)
        return _Validator(str(uid), hotkey)

    def _observe_known(self, event: ResultGenerated | GenerationFailed | SubmissionAnswered, task: _Task) -> None:
        match event:
            case ResultGenerated():
                for stage, seconds in event.seconds.items():
                    self._stages.labels(stage, task.phase).observe(seconds)
                self._seconds.labels(task.type, task.phase).observe(sum(event.seconds.values()))
                if "gaussians" in event.statistics:
                    self._gaussians.labels(task.phase).observe(event.statistics["gaussians"])
            case GenerationFailed():
                self._failed.labels(*task).inc()
            # A pushed task gets no other outcome.
            case SubmissionAnswered(outcome=outcome, score=score) if outcome.closes or task.transport == "push":
                self._open.pop(event.key, None)
                self._ended.labels(*task, outcome).inc()
                if outcome is Outcome.ACCEPTED and score:
                    self._scores.labels(task.phase, task.uid, task.hotkey).observe(score)


@dataclass(frozen=True, eq=False)
class _StatusCollector(Collector):
    """The gauges of the status at the moment of the scrape."""

    source: StatusSource

    def collect(self) -> Iterable[Metric]:
        """Return all gauges that have a value yet."""
        status, now = self.source.status(), time.time()
        yield InfoMetricFamily(PREFIX, "Build and phase.", {"version": status.version, "phase": status.phase})
        yield _gauge("up", "1 if the miner takes tasks.", float(status.able_to_work))
        yield _gauge("pipeline_loaded", "1 once the models are loaded and warm.", float(status.pipeline_loaded))
        yield _gauge("queue_length", "Tasks whose generation has not begun.", status.queue)
        yield _gauge("start_timestamp_seconds", "Unix time of the start.", now - status.uptime)
        if status.metagraph_age is not None:
            text = "Unix time at which the metagraph was read last."
            yield _gauge("metagraph_timestamp_seconds", text, now - status.metagraph_age)
        if status.last_success is not None:
            yield _gauge("last_success_timestamp_seconds", "Unix time of the last result.", status.last_success)
        yield from _labelled_gauges(status)
        if status.ledger is not None:
            yield _gauge("ledger_waiting_records", "Records that are waiting to be written.", status.ledger.waiting)
            name = f"{PREFIX}_ledger_dropped_records"
            yield CounterMetricFamily(name, "Records that were lost.", status.ledger.dropped)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", documentation, value)


def _labelled_gauges(status: Status) -> Iterable[Metric]:
    kinds = ("allocated", "reserved", "total")
    memory = [((gpu.device, kind), float(getattr(gpu, kind))) for gpu in status.gpus for kind in kinds]
    yield _family(GaugeMetricFamily, "gpu_memory_bytes", "Memory of the GPUs.", ("device", "kind"), memory)
    yield from _worker_metrics(status)
    restarts = [((task,), count) for task, count in status.restarts.items()]
    yield _family(CounterMetricFamily, "restarts", "Restarts of background tasks that failed.", ("task",), restarts)
    counts = dict.fromkeys(map(str, EXPECTED_EVENTS), 0) | dict(status.counters)
    events = [((event,), count) for event, count in counts.items()]
    yield _family(CounterMetricFamily, "events", "The counters of the log's totals.", ("event",), events)
    names = _Validator._fields
    validators = [(_Validator(str(view.uid), view.hotkey), view) for view in status.validators]
    text = "Unix time at which the cooldown that a validator imposed ends, 0 without one."
    cooldowns = [(labels, view.cooldown_end or 0.0) for labels, view in validators]
    yield _family(GaugeMetricFamily, "validator_cooldown_end_timestamp_seconds", text, names, cooldowns)
    text = "Unix time of the next pull from a validator, 0 for now."
    waits = [(labels, view.next_pull or 0.0) for labels, view in validators]
    yield _family(GaugeMetricFamily, "validator_next_pull_timestamp_seconds", text, names, waits)
    text = "Pulls from a validator, or submissions to it, in a row that failed."
    failures = [(labels, view.failures) for labels, view in validators]
    yield _family(GaugeMetricFamily, "validator_failures", text, names, failures)
    stages = [((*labels, view.stage), 1) for labels, view in validators]
    text = "1 for the present stage of a validator."
    yield _family(GaugeMetricFamily, "validator_stage", text, (*names, "stage"), stages)


def _worker_metrics(status: Status) -> Iterable[Metric]:
    names, workers = ("place", "device"), [((worker.place, worker.device), worker) for worker in status.workers]
    states = [((*labels, worker.state), 1.0) for labels, worker in workers]
    yield _family(GaugeMetricFamily, "worker_state", "1 for the present state of a worker.", (*names, "state"), states)
    text = "Seconds since a worker began its present candidate, 0 if it has none."
    busy = [(labels, worker.busy_seconds) for labels, worker in workers]
    yield _family(GaugeMetricFamily, "worker_busy_seconds", text, names, busy)
    made = [(labels, float(worker.candidates)) for labels, worker in workers]
    yield _family(CounterMetricFamily, "worker_candidates", "Candidates that a worker has made.", names, made)
    losses = [(labels, float(worker.losses)) for labels, worker in workers]
    yield _family(CounterMetricFamily, "worker_losses", "Times that a worker was lost.", names, losses)
    pace = [(labels, worker.per_minute) for labels, worker in workers]
    text = "Candidates that a worker made each minute of the last five."
    yield _family(GaugeMetricFamily, "worker_candidates_per_minute", text, names, pace)


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, documentation: str,
    labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:  # fmt: skip
    family = kind(f"{PREFIX}_{name}", documentation, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
