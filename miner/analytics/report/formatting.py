"""Numbers, times and table cells of the report, as its text and its page show them."""

from datetime import UTC, datetime

from miner.analytics.aggregate import Contrast, Summary
from miner.analytics.calibration import ReliabilityBin
from miner.analytics.experiments import ExperimentSummary
from miner.analytics.gate_summary import CalibrationSummary, GateSummary
from miner.analytics.pass_model import MIN_OUTCOMES
from miner.analytics.report.build import Report, ReportRow
from miner.analytics.slots import break_even_chance
from miner.words import plural

NOT_RANDOMISED = (
    "Tasks were not assigned at random between these, so hours and validators differ, too; "
    "`sn17-miner phase split` compares without that."
)


PARTLY_RANDOMISED = (
    "The experiment below compares only tasks that were assigned at random; here, the others count, too."
)


def note_on_assignment(report: Report) -> str:
    """Return what the differences between phases are worth, "" if an experiment assigned all of the tasks."""
    notes = {"at random": "", "partly at random": PARTLY_RANDOMISED, "not at random": NOT_RANDOMISED}
    return notes[report.assigned] if report.differences and report.by[0] == "phase" else ""


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Format unix seconds in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def number(value: float | None, form: str) -> str:
    """Format a number; "-" without one."""
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """Format a share; "-" without one."""
    return "-" if value is None else f"{100 * value:.1f} %"


def significant(value: float | None) -> str:
    """Format a number with three digits, or whole if it has more before the point."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def evidence(e_value: float) -> str:
    """Format an e-value."""
    return "over 10^6" if e_value > 1e6 else significant(e_value)


def summary_cells(row: ReportRow, *, count_format: str = "", dash: str = "-") -> list[str]:
    """Return the cells of a group's row, the rating last."""
    summary = row.summary
    rate, seconds = summary.rate, summary.seconds
    low, high = rate.interval
    counts = (summary.tasks, rate.accepted, rate.rejected, summary.skipped, summary.other)
    return [
        row.label, *(format(count, count_format) for count in counts), percent(rate.share),
        f"{100 * low:.1f}{dash}{100 * high:.1f}" if rate.judged else dash,
        number(summary.score, ".3f"), number(summary.quality and summary.quality.p50, ".3f"),
        alignments(summary),
        number(seconds and seconds.p50, ".1f"), number(seconds and seconds.p95, ".1f"),
        number(summary.gaussians and summary.gaussians.p50, ",.0f"), str(rate.rating),
    ]  # fmt: skip


def alignments(summary: Summary) -> str:
    """Format the median alignments of sentences and of pictures, whose scales differ."""
    medians = [sample and sample.p50 for sample in (summary.text_alignment, summary.image_alignment)]
    return "-" if medians == [None, None] else "/".join(number(median, ".2f") for median in medians)


def contrast_cells(contrast: Contrast) -> list[str]:
    """Return the cells of a column's row; its effect in words if it is clear."""
    effect = contrast.effect
    return [
        contrast.column, significant(contrast.accepted_median), significant(contrast.rejected_median),
        number(effect and effect.delta, "+.2f"),
        f"{effect.low:+.2f} to {effect.high:+.2f}" if effect else "-",
        effect.magnitude if effect and effect.is_clear else "",
    ]  # fmt: skip


CALIBRATION_HEAD = ("chance", "mean", "passed", "of", "share", "95 % interval")


def calibration_title(summary: CalibrationSummary) -> str:
    """Return what a calibration is of, and how good it is."""
    outcomes = summary.calibration.outcomes
    title = f"Chance that {summary.kind.task_type} results pass, by {summary.kind.parts}: {plural(outcomes, 'outcome')}"
    if not summary.bins:
        return f"{title}, a table needs {MIN_OUTCOMES}"
    even = "" if summary.even_margin is None else f", half pass at {summary.even_margin:+.3f} from the threshold"
    return f"{title}{even}; Brier score {number(summary.brier, '.3f')}, {summary.brier_of_mean:.3f} without scores"


def calibration_cells(found: ReliabilityBin) -> list[str]:
    """Return the cells of a bin's row."""
    low, high = found.interval
    return [
        f"{100 * found.low:.0f}-{100 * found.high:.0f} %", percent(found.predicted), str(found.passed),
        str(found.total), percent(found.share), f"{100 * low:.1f}-{100 * high:.1f}",
    ]  # fmt: skip


def gate_lines(gate: GateSummary) -> list[str]:
    """Return what the gate made of results, a sentence each; none without a gate."""
    lines = []
    for counts in gate.counts:
        line = f"Gate, {counts.task_type} results: {counts.sent} sent, {counts.withheld} withheld, "
        line += f"{counts.explored} explored"
        line += f" ({counts.accepted} of {counts.judged} accepted)" if counts.judged else ""
        if counts.foretold:
            line += f"; Brier score {number(counts.brier, '.3f')} of {plural(counts.foretold, 'prediction')}"
        lines.append(line)
    if lines:
        slots = gate.slots
        enough = percent(break_even_chance(slots.share))
        lines.append(
            f"{slots.accepted} of the latest {plural(round(slots.total), 'slot')} ended accepted, a share of "
            f"{percent(slots.share)} with what is assumed at first, so sending pays above a chance of {enough}"
        )
    if len(gate.phases) > 1:
        shares = ", ".join(f"{label} {percent(slots.accepted_share)}" for label, slots in gate.phases)
        lines.append(f"Slots that ended accepted, by which phases with and without a gate compare: {shares}")
    return lines


def scope(report: Report) -> str:
    """Return which tasks the report is on, to follow a noun."""
    since, until = report.filter.since, report.filter.until
    parts = [f" since {moment(since)}" if since else ""]
    parts += [f"until {moment(until)}"] if until < report.now else []
    parts += [str(report.filter)] if str(report.filter) else []
    return ", ".join([*parts, f"as of {moment(report.now)} UTC"])


def forecast_lines(summary: ExperimentSummary) -> list[str]:
    """Return what it would take to tell arms apart, a sentence each."""
    counted = {arm.phase: arm.counted for arm in summary.arms}
    return [
        f"At these rates, {better} would be called better than {worse} after some {tasks:,} tasks of both; "
        f"{counted[better] + counted[worse]:,} are counted"
        for better, worse, tasks in summary.forecasts
    ]


def explain_emptiness(report: Report) -> str:
    """Return why there is nothing to report."""
    if not report.ledger.exists():
        return f"There is no ledger {report.ledger} yet, so there is nothing to report."
    since = f" since {moment(report.filter.since)} UTC" if report.filter.since else ""
    until = f" until {moment(report.filter.until)} UTC" if report.filter.until < report.now else ""
    kind = f" of {report.filter}" if str(report.filter) else ""
    return f"The ledger {report.ledger} has no tasks{kind}{since}{until}, so there is nothing to report."
