"""The report's plots as inline SVG, coloured by the style sheet of the page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from miner.analytics.aggregate import Bin, Contrast
from miner.analytics.experiments import ExperimentSummary
from miner.analytics.gate_summary import CalibrationSummary
from miner.analytics.rating import Scale
from miner.analytics.report.build import Report, ReportRow
from miner.analytics.report.formatting import moment

WIDTH = 860
LABELS = 210
# The most letters of a name that there is room for.
MAX_LABEL = 46


@dataclass(frozen=True)
class Axis:
    """A linear scale from the first and the last of some values to the first and the last of some pixels."""

    values: tuple[float, float]
    pixels: tuple[float, float]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        (first, last), (start, end) = self.values, self.pixels
        return start + (value - first) / (last - first) * (end - start)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}">{escape(text)}</text>'


def _dot(x: float, y: float, radius: float = 4.0) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"


def _vertical_grid(x: Axis, top: float, bottom: float, ticks: Iterable[tuple[float, str, str]]) -> Iterable[str]:
    for value, label, css in ticks:
        yield _line(x(value), top, x(value), bottom, css)
        yield _text(x(value), bottom + 16, label, "muted middle")


def _whisker(x: Axis, y: float, low: float, middle: float, high: float, is_clear: bool) -> str:
    """Draw an interval with its estimate, grey unless it is clear."""
    css = "" if is_clear else "unclear"
    return f'<g class="{css}">{_line(x(low), y, x(high), y, "whisker")}{_dot(x(middle), y)}</g>'


def rate_plot(rows: Sequence[ReportRow], scale: Scale) -> str:
    """Draw the acceptance rate of each group with its interval, over the bands of the rating."""
    top, row_height = 38, 26
    bottom = top + row_height * len(rows)
    names = [row.label[:MAX_LABEL] for row in rows]
    left = max(LABELS, 7 * max(map(len, names)) + 12)
    x = Axis((0, 1), (left, WIDTH - 70))
    parts = []
    ceilings = (1.0, *(band.floor for band in scale.bands))
    for strength, (band, ceiling) in enumerate(zip(reversed(scale.bands), reversed(ceilings[:-1]), strict=True), 1):
        parts.append(
            f'<rect class="band" opacity="{0.05 * strength:.2f}" x="{x(band.floor):.1f}" y="{top}" '
            f'width="{x(ceiling) - x(band.floor):.1f}" height="{bottom - top}"/>'
        )
        # In two lines, since a narrow band is narrower than its name.
        parts.append(_text(x((band.floor + ceiling) / 2), top - 7 - 14 * (strength % 2), band.name, "muted middle"))
    parts += _vertical_grid(x, top, bottom, ((tick / 100, f"{tick} %", "grid") for tick in range(0, 101, 20)))
    for index, row in enumerate(rows):
        rate, y = row.summary.rate, top + row_height * (index + 0.5)
        parts.append(_text(left - 12, y + 4, names[index], "end"))
        parts.append(_text(x(1) + 10, y + 4, f"n {rate.judged:,}", "muted"))
        if rate.share is not None:
            low, high = rate.interval
            parts.append(_whisker(x, y, low, rate.share, high, rate.rating.is_known))
    return _svg(bottom + 24, parts, "Acceptance rates with 95 % intervals; grey where there is not enough data")


def effect_plot(contrasts: Sequence[Contrast]) -> str:
    """Draw Cliff's delta of each column with its interval."""
    top, row_height = 22, 22
    bottom = top + row_height * len(contrasts)
    x = Axis((-1, 1), (LABELS, WIDTH - 20))
    parts = [
        _text(x(-1), top - 8, "← rejected have more", "muted"),
        _text(x(1), top - 8, "accepted have more →", "muted end"),
    ]
    ticks = ((tick / 2, f"{tick / 2:+g}" if tick else "0", "grid" if tick else "mark") for tick in range(-2, 3))
    parts += _vertical_grid(x, top, bottom, ticks)
    for index, contrast in enumerate(contrasts):
        effect, y = contrast.effect, top + row_height * (index + 0.5)
        parts.append(_text(LABELS - 12, y + 4, contrast.column, "end"))
        if effect is not None:
            parts.append(_whisker(x, y, effect.low, effect.delta, effect.high, effect.is_clear))
    return _svg(bottom + 24, parts, "Effect sizes with 95 % intervals")


def time_plot(report: Report) -> str:
    """Draw the acceptance rate of each bin that has judged tasks, with its interval, and the markers."""
    bins = [found for found in report.bins if found.rate.judged]
    left, right, top, bottom = 46, WIDTH - 20, 24, 224
    start, end = bins[0].start, bins[-1].start + report.bin_seconds
    x, y = Axis((start, end), (left, right)), Axis((0, 1), (bottom, top))
    parts = []
    for tick in range(0, 101, 20):
        parts += [_line(left, y(tick / 100), right, y(tick / 100), "grid")]
        parts += [_text(left - 8, y(tick / 100) + 4, f"{tick} %", "muted end")]
    form = "%d %b %H:%M" if end - start < 4 * 86_400 else "%d %b"
    for step in range(6):
        at = start + (end - start) * step / 5
        anchor = "end" if step == 5 else "middle" if step else ""
        parts.append(_text(x(at), bottom + 18, moment(at, form), f"muted {anchor}"))
    last_label = -200.0
    for marker in report.markers:
        if not start <= marker.at <= end:
            continue
        parts.append(_line(x(marker.at), top, x(marker.at), bottom, "mark"))
        # Where changes crowd, only the first is named.
        if x(marker.at) - last_label > 130:
            last_label = x(marker.at)
            parts.append(_text(last_label + 4, top - 8, marker.text[:24], "muted"))
    middles = [x(b.start + report.bin_seconds / 2) for b in bins]
    trend = " ".join(f"{middle:.1f},{y(_share(b)):.1f}" for middle, b in zip(middles, bins, strict=True))
    parts.append(f'<polyline class="trend" points="{trend}"/>')
    parts += [_time_mark(middle, y, b) for middle, b in zip(middles, bins, strict=True)]
    return _svg(bottom + 26, parts, "Acceptance rate over time with 95 % intervals")


def evidence_plot(experiment: ExperimentSummary) -> str:
    """Draw the e-value of each comparison over time, on a logarithmic axis, and the threshold that decides."""
    left, right, top, bottom = 66, WIDTH - 20, 26, 206
    result = experiment.result
    comparisons = [comparison for comparison in result.comparisons if comparison.path]
    ends = [at for comparison in comparisons for at, _ in comparison.path]
    start, end = min(experiment.row.started_at, *ends), max(*ends, experiment.row.started_at + 60)
    highest = max(result.threshold * 10, *(value for comparison in comparisons for _, value in comparison.path))
    x, y = Axis((start, end), (left, right)), Axis((-1, math.log10(highest)), (bottom, top))
    parts = []
    for power in range(-1, math.floor(math.log10(highest)) + 1, max(1, math.ceil(math.log10(highest) / 6))):
        parts += [_line(left, y(power), right, y(power), "grid")]
        parts += [_text(left - 8, y(power) + 4, f"{10.0**power:g}" if power < 5 else f"10^{power}", "muted end")]
    threshold = math.log10(result.threshold)
    parts += [_line(left, y(threshold), right, y(threshold), "mark")]
    parts += [_text(right, y(threshold) - 5, f"decided from {result.threshold:.0f}", "muted end")]
    for comparison in comparisons:
        # Below a tenth, more evidence against it makes no difference.
        points = " ".join(f"{x(at):.1f},{y(math.log10(max(value, 0.1))):.1f}" for at, value in comparison.path)
        parts.append(f'<polyline class="trend" points="{x(start):.1f},{y(0):.1f} {points}"/>')
        at, value = comparison.path[-1]
        words = f"{comparison.better} better"
        parts.append(_text(x(at) - 6, y(math.log10(max(value, 0.1))) - 6, words[:40], "muted end"))
    for step in range(6):
        at = start + (end - start) * step / 5
        anchor = "end" if step == 5 else "middle" if step else ""
        parts.append(_text(x(at), bottom + 18, moment(at, "%d %b %H:%M"), f"muted {anchor}"))
    return _svg(bottom + 26, parts, f"Evidence of experiment {experiment.row.name} over time")


def calibration_plot(summary: CalibrationSummary) -> str:
    """Draw the share that passed in each bin with its interval over the mean of the predicted chances."""
    left, right, top, bottom = 46, 306, 12, 272
    x, y = Axis((0, 1), (left, right)), Axis((0, 1), (bottom, top))
    ticks = [(tick / 100, f"{tick} %") for tick in range(0, 101, 20)]
    parts = [*_vertical_grid(x, top, bottom, ((value, label, "grid") for value, label in ticks))]
    for value, label in ticks:
        parts += [_line(left, y(value), right, y(value), "grid"), _text(left - 8, y(value) + 4, label, "muted end")]
    parts.append(_line(x(0), y(0), x(1), y(1), "mark"))
    for found in summary.bins:
        low, high = found.interval
        middle, title = x(found.predicted), f"{found.passed} of {found.total} passed"
        whisker = _line(middle, y(low), middle, y(high), "whisker")
        parts.append(f"<g><title>{title}</title>{whisker}{_dot(middle, y(found.share), 3.5)}</g>")
    parts.append(_text(right + 24, y(1) + 4, "share that passed, over the predicted chance", "muted"))
    parts.append(_text(right + 24, y(1) + 22, "dashed: as predicted", "muted"))
    return _svg(bottom + 26, parts, f"Calibration of {summary.kind.task_type} results with 95 % intervals")


def _share(time_bin: Bin) -> float:
    return time_bin.rate.accepted / time_bin.rate.judged


def _time_mark(x: float, y: Axis, time_bin: Bin) -> str:
    rate = time_bin.rate
    low, high = rate.interval
    title = f"{moment(time_bin.start)} UTC: {rate.accepted} of {rate.judged}"
    return f"<g><title>{title}</title>{_line(x, y(low), x, y(high), 'whisker')}{_dot(x, y(_share(time_bin)), 3.5)}</g>"
