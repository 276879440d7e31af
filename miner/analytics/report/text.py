"""The report as text for a terminal."""

from collections.abc import Iterable, Sequence

from miner.analytics.experiments import ExperimentSummary
from miner.analytics.report import formatting
from miner.analytics.report.build import Report
from miner.analytics.report.formatting import moment, percent
from miner.words import plural


def as_text(report: Report) -> str:
    """Write the report as aligned tables."""
    total = report.total.summary
    if not total.tasks:
        lines = [formatting.explain_emptiness(report)]
        for experiment in report.experiments:
            lines += ["", *_experiment(experiment)]
        return "\n".join(lines) + "\n"
    lines = [f"{report.ledger}: {plural(total.tasks, 'task')}{formatting.scope(report)}", ""]
    head = [f"by {report.title}", "tasks", "accepted", "rejected", "skipped", "other", "rate", "95 % interval", "score"]
    head += ["quality", "alignment text/image", "p50 s", "p95 s", "gaussians", "verdict"]
    lines += _table([head, *map(formatting.summary_cells, (*report.groups, report.total))])
    lines.append(report.scale.explanation)
    lines += _differences(report)
    lines += _contrasts(report)
    lines += _gate(report)
    for experiment in report.experiments:
        lines += ["", *_experiment(experiment)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield lines with columns as wide as their widest cell; the first and the last are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _differences(report: Report) -> Iterable[str]:
    if not report.differences:
        return
    yield ""
    for item in report.differences:
        d = item.difference
        more = f"; not told apart, which would take some {item.tasks_each} judged each" if item.tasks_each else ""
        points = f"{100 * d.estimate:+.1f} points (95 %: {100 * d.low:+.1f} to {100 * d.high:+.1f})"
        yield f"{item.label} against {item.reference}: {points}{more}"
    if note := formatting.note_on_assignment(report):
        yield note


def _contrasts(report: Report) -> Iterable[str]:
    contrasts = [contrast for contrast in report.total.contrasts if contrast.effect]
    if not contrasts:
        return
    yield ""
    head = ["accepted against rejected", "accepted", "rejected", "delta", "95 % interval", "where clear"]
    yield from _table([head, *map(formatting.contrast_cells, contrasts)])
    yield (
        "Medians; Cliff's delta is the chance that an accepted result has the larger value less that of the opposite. "
        "One interval in twenty leaves out 0 by chance."
    )


def _gate(report: Report) -> Iterable[str]:
    for summary in report.gate.calibrations:
        yield ""
        yield formatting.calibration_title(summary)
        if summary.bins:
            yield from _table([formatting.CALIBRATION_HEAD, *map(formatting.calibration_cells, summary.bins)])
    if lines := formatting.gate_lines(report.gate):
        yield ""
        yield from lines


def _experiment(summary: ExperimentSummary) -> Iterable[str]:
    row, result = summary.row, summary.result
    ended = f", ended {moment(row.ended_at)} UTC: {row.decision}" if row.ended_at is not None else ", running"
    yield f"Experiment {row.name} since {moment(row.started_at)} UTC{ended}"
    for arm, accepted, counted in summary.arms:
        share = f" ({percent(accepted / counted)})" if counted else ""
        yield f"  {arm}: {accepted} accepted of {plural(counted, 'counted task')}{share}"
    for comparison in result.comparisons:
        low, high = comparison.odds_ratio
        evidence = f"{formatting.evidence(comparison.highest_e_value)} of {result.threshold:.0f}"
        arms = f"{comparison.better} better than {comparison.worse}"
        yield f"  {arms}: evidence {evidence}, odds ratio {low:.2f} to {high:.2f} at any time"
    yield from (f"  {line}" for line in formatting.forecast_lines(summary))
    if result.winner is not None:
        yield f"  Winner: {result.winner}"
    elif result.losers:
        yield f"  Clearly worse: {', '.join(result.losers)}"
    else:
        yield "  No arm has won yet; go on"
