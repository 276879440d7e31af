"""The report as text for a terminal, and how all of its forms write numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from miner.analytics.aggregate import Contrast, ExperimentSummary, Report, Summary

NOT_AT_RANDOM = (
    "Tasks were not shared out at random between these, so hours and validators differ, too; "
    "`scripts/phase.py split` compares without that."
)


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def figure(value: float | None) -> str:
    """With three digits, or whole."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def evidence(wealth: float) -> str:
    return "over 10^6" if wealth > 1e6 else figure(wealth)


def table(rows: Sequence[Sequence[str]], left: int) -> Iterable[str]:
    """Columns as wide as they need to be; the first `left` and the last aligned to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < left or column == len(row) - 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def summary_row(summary: Summary) -> list[str]:
    low, high = summary.interval
    return [
        summary.label,
        *(str(count) for count in (summary.tasks, summary.accepted, summary.rejected, summary.skipped, summary.other)),
        percent(summary.rate),
        f"{100 * low:.1f}-{100 * high:.1f}" if summary.judged else "-",
        number(summary.score, ".3f"),
        number(summary.quality, ".3f"),
        number(summary.seconds_p50, ".1f"),
        number(summary.seconds_p95, ".1f"),
        number(summary.gaussians_p50, ",.0f"),
        str(summary.verdict),
    ]


def contrast_row(contrast: Contrast) -> list[str]:
    effect = contrast.effect
    return [
        contrast.column,
        figure(contrast.accepted_median),
        figure(contrast.rejected_median),
        number(effect.delta if effect else None, "+.2f"),
        f"{effect.low:+.2f} to {effect.high:+.2f}" if effect else "-",
        effect.magnitude if effect and effect.is_clear else "",
    ]


def experiment_lines(summary: ExperimentSummary) -> Iterable[str]:
    row, decision = summary.row, summary.decision
    ended = f", ended {moment(row.ended_at)} UTC: {row.decision}" if row.ended_at is not None else ""
    yield f"Experiment {row.name} since {moment(row.started_at)} UTC{ended}"
    for arm, accepted, counted in summary.arms:
        yield f"  {arm}: {accepted} accepted of {counted} tasks that count" + (
            f" ({percent(accepted / counted)})" if counted else ""
        )
    for comparison in decision.comparisons:
        low, high = comparison.odds_ratio
        yield (
            f"  {comparison.better} better than {comparison.worse}: evidence {evidence(comparison.highest_e_value)} of "
            f"{decision.threshold:.0f}, odds ratio {low:.2f} to {high:.2f} at any time"
        )
    if decision.winner is not None:
        yield f"  Winner: {decision.winner}"
    elif decision.losers:
        yield f"  Clearly worse: {', '.join(decision.losers)}"
    else:
        yield "  No arm has won yet; go on"


def emptiness(told: Report, path: Path) -> str:
    """Why there is nothing to tell."""
    if not path.expanduser().exists():
        return f"There is no ledger {path} yet, so there is nothing to report."
    since = f" since {moment(told.since)} UTC" if told.since else ""
    return f"The ledger {path} has no tasks{since}, so there is nothing to report."


def as_text(told: Report, path: Path) -> str:
    if not told.total.tasks:
        return emptiness(told, path) + "\n"
    since = f" since {moment(told.since)}" if told.since else ""
    lines = [f"{path}: {told.total.tasks} tasks{since}, as of {moment(told.until)} UTC", ""]
    head = ["by " + told.by, "tasks", "accepted", "rejected", "skipped", "other", "rate", "95 % interval", "score"]
    head += ["quality", "p50 s", "p95 s", "gaussians", "verdict"]
    lines += table([head, *(summary_row(group) for group in (*told.groups, told.total))], left=1)
    if told.differences:
        lines.append("")
    for item in told.differences:
        d = item.difference
        more = f"; not told apart, which would take some {item.tasks_each} judged each" if item.tasks_each else ""
        points = f"{100 * d.estimate:+.1f} points (95 %: {100 * d.low:+.1f} to {100 * d.high:+.1f})"
        lines.append(f"{item.label} against {item.reference}: {points}{more}")
    if told.differences and told.by == "phase":
        lines.append(NOT_AT_RANDOM)
    contrasts = [contrast for contrast in told.total.contrasts if contrast.effect]
    if contrasts:
        head = ["accepted against rejected", "accepted", "rejected", "delta", "95 % interval", "where clear"]
        lines += ["", *table([head, *map(contrast_row, contrasts)], left=1)]
        lines.append(
            "Medians; Cliff's delta is the chance that an accepted result has the larger value less that of the "
            "opposite. One interval in twenty leaves out 0 by chance."
        )
    for experiment in told.experiments:
        lines += ["", *experiment_lines(experiment)]
    return "\n".join(lines) + "\n"
