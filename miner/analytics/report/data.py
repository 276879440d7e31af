"""The report as JSON and as CSV, for other programs."""

import csv
import io
import json
import math
from dataclasses import asdict

from miner.analytics.aggregate import COMPARED
from miner.analytics.figures import Json, bin_figures, gate_figures, rated_figures, summary_figures
from miner.analytics.report.build import Report, ReportRow


def as_json(report: Report) -> str:
    """Write the report as one JSON object."""
    content = {
        "by": report.by,
        "since": report.filter.since,
        "until": min(report.filter.until, report.now),
        "now": report.now,
        "phase": report.filter.phases,
        "validator": report.filter.validators,
        "type": report.filter.types,
        "last": report.filter.last,
        "total": _row(report.total),
        "groups": [_row(group) for group in report.groups],
        "differences": [asdict(difference) for difference in report.differences],
        "bin_seconds": report.bin_seconds,
        "bins": [bin_figures(found) for found in report.bins],
        "phases": [phase._asdict() for phase in report.phases],
        "markers": [asdict(marker) for marker in report.markers],
        "experiments": [
            {"row": e.row._asdict(), "arms": e.arms, "decision": asdict(e.result), "state": e.result.state}
            | {"forecasts": [forecast._asdict() for forecast in e.forecasts]}
            for e in report.experiments
        ],
        "gate": gate_figures(report.gate),
        "ledger": str(report.ledger),
        "bands": {band.name: band.floor for band in report.scale.bands},
    }
    return json.dumps(_without_infinities(content), indent=1) + "\n"


def _row(row: ReportRow) -> Json:
    return {
        "key": row.key,
        "label": row.label,
        "keys": row.keys,
        **rated_figures(row.summary),
        "contrasts": [asdict(contrast) for contrast in row.contrasts],
    }


def _without_infinities(value: object) -> object:
    """Replace infinities, which JSON does not have, with null."""
    if isinstance(value, dict):
        return {key: _without_infinities(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def as_csv(report: Report) -> str:
    """Write a row for each group and one, "all", for their sum; of each column the medians and Cliff's delta.

    Each of several dimensions has a column of its own with its key.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    compared = [f"{name}_{suffix}" for name in COMPARED for suffix in ("accepted_median", "rejected_median", "delta")]
    dimensions = report.by if len(report.by) > 1 else ()
    writer.writerow(
        ["label", "key", *dimensions, *summary_figures(report.total.summary), "low", "high", "verdict", *compared]
    )
    for row in (*report.groups, report.total):
        rate = row.summary.rate
        cells = [
            value
            for contrast in row.contrasts
            for value in (contrast.accepted_median, contrast.rejected_median, contrast.effect and contrast.effect.delta)
        ]
        keys = [row.label, row.key, *((row.keys or ("",) * len(dimensions)) if dimensions else ())]
        figures = summary_figures(row.summary).values()
        writer.writerow([*keys, *figures, *rate.interval, rate.rating, *(cells or [None] * len(compared))])
    return text.getvalue()
