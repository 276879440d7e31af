"""The report as one HTML page: plots as inline SVG, no script, nothing fetched, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape

from miner.analytics.aggregate import Contrast
from miner.analytics.experiments import ExperimentSummary
from miner.analytics.gate_summary import GateSummary
from miner.analytics.report import formatting
from miner.analytics.report.build import Report, ReportRow
from miner.analytics.report.formatting import moment, number, percent
from miner.analytics.report.plots import calibration_plot, effect_plot, evidence_plot, rate_plot, time_plot

# Rows of a plot; the tables have all rows.
MAX_ROWS = 30

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1c1b19; --muted: #6d6a64; --line: #dedad3; --dot: #1f5fae;
  --band: #1f5fae; --good: #16774a; --bad: #b3372b; }
@media (prefers-color-scheme: dark) { :root { --paper: #16171a; --ink: #e9e7e2; --muted: #9b988f; --line: #34363b;
  --dot: #7fb2f0; --band: #7fb2f0; --good: #6fcf97; --bad: #f08a7d; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1040px; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; } .muted { color: var(--muted); }
.headline { display: flex; flex-wrap: wrap; gap: 1rem 2.2rem; margin: 1.5rem 0 0; }
.headline b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 500; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:last-child { white-space: normal; min-width: 6.5rem; }
tr.total td { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .muted { fill: var(--muted); } svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: 1; } .mark { stroke: var(--muted); stroke-dasharray: 3 3; }
.whisker { stroke: var(--dot); stroke-width: 2; stroke-linecap: round; } .dot { fill: var(--dot); }
.unclear .whisker { stroke: var(--muted); } .unclear .dot { fill: var(--muted); }
.band { fill: var(--band); } .trend { fill: none; stroke: var(--dot); stroke-width: 1; opacity: .5; }
"""


def as_html(report: Report) -> str:
    """Write the whole document."""
    body = [
        f"<h1>Acceptance by {report.title}</h1>",
        f'<p class="muted">{escape(f"{report.ledger}{formatting.scope(report)}")}</p>',
    ]
    if report.total.summary.tasks:
        body += [_headline(report.total), *_rates(report), *_over_time(report), *_contrasts(report.total.contrasts)]
        body += _gate(report.gate)
    else:
        body.append("<p>There are no tasks yet, so there is nothing to report.</p>")
    for experiment in reversed(report.experiments):
        body += _experiment(experiment)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Miner report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _headline(total: ReportRow) -> str:
    summary = total.summary
    rate, seconds = summary.rate, summary.seconds
    low, high = rate.interval
    p50, p95 = number(seconds and seconds.p50, ".1f"), number(seconds and seconds.p95, ".1f")
    facts = [
        (percent(rate.share), f"accepted, 95 %: {100 * low:.0f} to {100 * high:.0f}" if rate.judged else "accepted"),
        (f"{rate.accepted:,} of {rate.judged:,}", "judged results"),
        (number(summary.score, ".3f"), "mean score of the accepted"),
        (f"{p50} / {p95} s", "generation, p50 / p95"),
        (str(rate.rating).partition(",")[0], "verdict"),
    ]
    cells = (f"<div><b>{escape(value)}</b><span class=muted>{escape(name)}</span></div>" for value, name in facts)
    return f'<div class="headline">{"".join(cells)}</div>'


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{names}</tr>{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], row_class: str = "", last_class: str = "") -> str:
    plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells[:-1])
    return f'<tr class="{row_class}">{plain}<td class="{last_class}">{escape(cells[-1])}</td></tr>'


def _rates(report: Report) -> Iterable[str]:
    yield f"<h2>Rate of each {report.title}, with 95 % intervals</h2>"
    shown = report.groups[-MAX_ROWS:] if report.has_hours else report.groups[:MAX_ROWS]
    yield rate_plot((*shown, report.total), report.scale)
    if len(shown) < len(report.groups):
        yield f'<p class="muted">{len(shown)} of {len(report.groups)} are drawn; the table has all.</p>'
    head = ["", "tasks", "accepted", "rejected", "skipped", "other", "rate", "95 %", "score", "quality"]
    head += ["alignment text/image", "p50 s", "p95 s", "gaussians", "verdict"]
    yield _table(head, map(_summary_row, (*report.groups, report.total)))
    yield f'<p class="muted">{escape(report.scale.explanation)}</p>'
    for item in report.differences:
        d = item.difference
        more = f"; not told apart, which would take some {item.tasks_each:,} judged each" if item.tasks_each else ""
        yield (
            f"<p>{escape(item.label)} against {escape(item.reference)}: <b>{100 * d.estimate:+.1f} points</b> "
            f"(95 %: {100 * d.low:+.1f} to {100 * d.high:+.1f}){more}</p>"
        )
    if note := formatting.note_on_assignment(report):
        yield f'<p class="muted">{escape(note)}</p>'


def _summary_row(row: ReportRow) -> str:
    rating = row.summary.rate.rating
    colour = "bad" if rating.is_below else "good" if rating.band is not None else "muted"
    return _row(formatting.summary_cells(row, count_format=",", dash="–"), "" if row.key else "total", colour)


def _over_time(report: Report) -> Iterable[str]:
    if sum(found.rate.judged > 0 for found in report.bins) < 2:
        return
    hours = report.bin_seconds // 3600
    width = f"{hours} h" if hours < 48 else f"{hours // 24} days"
    yield f"<h2>Over time, in bins of {width}</h2>"
    yield time_plot(report)
    if report.markers:
        yield '<p class="muted">Dashed lines are changes of the phase and of the code, and experiments.</p>'


def _contrasts(contrasts: Sequence[Contrast]) -> Iterable[str]:
    known = [contrast for contrast in contrasts if contrast.effect is not None]
    if not known:
        return
    yield "<h2>Accepted against rejected results</h2>"
    yield (
        "<p>Cliff’s delta: the chance that an accepted result has the larger value, less the chance of the opposite. "
        "Grey intervals hold 0: no difference is shown. One interval in twenty leaves out 0 by chance.</p>"
    )
    yield effect_plot(known)
    head = ["median of", "accepted", "rejected", "delta", "95 %", ""]
    yield _table(head, (_row(formatting.contrast_cells(contrast)) for contrast in known))


def _gate(gate: GateSummary) -> Iterable[str]:
    lines = formatting.gate_lines(gate)
    if not lines and not gate.calibrations:
        return
    yield "<h2>Chance to pass, and the gate</h2>"
    yield from (f"<p>{escape(line)}</p>" for line in lines)
    for summary in gate.calibrations:
        yield f"<p>{escape(formatting.calibration_title(summary))}</p>"
        if summary.bins:
            yield calibration_plot(summary)
            yield _table(formatting.CALIBRATION_HEAD, (_row(formatting.calibration_cells(b)) for b in summary.bins))


def _experiment(experiment: ExperimentSummary) -> Iterable[str]:
    row, result = experiment.row, experiment.result
    yield f"<h2>Experiment {escape(row.name)}</h2>"
    ended = f", ended {moment(row.ended_at)}: {row.decision}" if row.ended_at is not None else ", running"
    yield f'<p class="muted">{escape(f"Since {moment(row.started_at)} UTC{ended}")}</p>'
    if result.winner is not None:
        yield f'<p><b class="good">{escape(result.winner)} has won.</b></p>'
    elif result.losers:
        yield f'<p><b class="bad">Clearly worse: {escape(", ".join(result.losers))}.</b></p>'
    else:
        yield "<p><b>No arm has won yet.</b></p>"
    rows = []
    for arm, accepted, counted in experiment.arms:
        rows.append(_row([arm, f"{counted:,}", f"{accepted:,}", percent(accepted / counted if counted else None)]))
    yield _table(["arm", "counted", "accepted", "rate"], rows)
    rows = []
    for comparison in result.comparisons:
        odds_ratio = "{:.2f} to {:.2f}".format(*comparison.odds_ratio)
        evidence = [formatting.evidence(comparison.highest_e_value), f"{result.threshold:.0f}", odds_ratio]
        rows.append(_row([comparison.better, comparison.worse, *evidence]))
    yield _table(["is better than", "", "evidence", "needed", "odds ratio, at any time"], rows)
    yield from (f"<p>{escape(line)}.</p>" for line in formatting.forecast_lines(experiment))
    if any(comparison.path for comparison in result.comparisons):
        yield evidence_plot(experiment)
