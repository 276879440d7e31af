"""The files for Prometheus and Grafana."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.exposition import generate_latest

from miner.gpu.worker import WorkerStatus
from miner.ledger.events import GenerationFailed, TaskStarted
from miner.ledger.writer import LedgerStatus
from miner.monitor.metrics import Metrics
from miner.runtime.gpu_memory import GpuMemory
from tests.support.monitor import OK, FixedStatus, one_task
from tests.support.paths import ROOT

MONITORING = ROOT / "config" / "monitoring"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: sudo apt-get install -y prometheus")


def promtool(*arguments: str, folder: Path = MONITORING) -> str:
    """What it prints; it must find no fault."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series() -> dict[str, set[str]]:
    """The labels of each series of a miner that has done everything once."""
    status = replace(
        OK, config_hashes={"phase3": "1a2b"}, own_gpus=(GpuMemory("cuda:0", "H100", 1, 2, 3),),
        ledger=LedgerStatus(written=1, waiting=0, dropped=0, failures=0, problem=""),
        workers=(WorkerStatus("this machine", "cuda:0", "idle"),),
    )  # fmt: skip
    metrics = Metrics(FixedStatus(status))
    for event in (*one_task(1), one_task(2)[0], GenerationFailed(2, 2.0, "why")):
        assert not isinstance(event, TaskStarted) or event.uid == 27
        metrics.observe(event)
    found = dict[str, set[str]]()
    for line in generate_latest(metrics.registry).decode().splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def board() -> dict[str, Any]:
    return dict(json.loads((MONITORING / "grafana.json").read_text()))


def expressions() -> Iterator[str]:
    """All queries of the dashboard, its variables replaced by what they may be."""
    content = board()
    queries = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    queries += [annotation["expr"] for annotation in content["annotations"]["list"]]
    for query in queries:
        yield re.sub(r"\$(instance|phase|validator)", ".*", query.replace("$window", "6h"))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def test_only_series_and_labels_that_exist_are_asked_for() -> None:
    known, recorded = series(), {rule["record"] for rule in rules() if "record" in rule}
    for query in (*expressions(), *(rule["expr"] for rule in rules())):
        names = set(re.findall(r"sn17_miner[\w:]*", query))
        assert names
        assert names - recorded <= known.keys(), query
        for name, selectors in re.findall(r"(sn17_miner\w*)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=", selectors)) - {"instance"} <= known[name], query


def test_each_alert_says_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 8
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "cure"}


def test_panels_do_not_overlap() -> None:
    cells = set[tuple[int, int]]()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not own & cells
        cells |= own
    assert {variable["name"] for variable in board()["templating"]["list"]} >= {"datasource", "phase", "validator"}


@needs_promtool
@pytest.mark.process
def test_prometheus_reads_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "alerts.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")
    # The dashboard's queries, as rules.
    queries = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": queries}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", "queries.yaml", folder=tmp_path)


@needs_promtool
@pytest.mark.process
def test_prometheus_finds_no_fault_with_the_metrics() -> None:
    metrics = Metrics(FixedStatus(replace(OK, config_hashes={"phase3": "1a2b"})))
    for event in one_task(1):
        metrics.observe(event)
    assert PROMTOOL is not None
    text = generate_latest(metrics.registry)
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
