"""The report's plots, as SVG that stands in the page; the page's style sheet colours them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from miner.analytics.aggregate import Bin, Contrast, Report, Summary
from miner.analytics.intervals import wilson_interval
from miner.analytics.rating import BANDS
from miner.analytics.report.text import moment

WIDTH = 860
LABELS = 210
ROW = 26


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _dot(x: float, y: float, radius: float = 4.0) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"


def rate_plot(groups: Sequence[Summary]) -> str:
    top, left, right = 38, LABELS, WIDTH - 70
    bottom = top + ROW * len(groups)

    def x(share: float) -> float:
        return left + share * (right - left)

    parts = []
    ceilings = (1.0, *(band.floor for band in BANDS))
    for strength, (band, ceiling) in enumerate(zip(reversed(BANDS), reversed(ceilings[:-1]), strict=True), 1):
        parts.append(
            f'<rect class="band" opacity="{0.05 * strength:.2f}" x="{x(band.floor):.1f}" y="{top}" '
            f'width="{x(ceiling) - x(band.floor):.1f}" height="{bottom - top}"/>'
        )
        # In two lines, since a narrow band is narrower than its name.
        parts.append(_text(x((band.floor + ceiling) / 2), top - 7 - 14 * (strength % 2), band.name, "muted middle"))
    for tick in range(0, 101, 20):
        parts += [_line(x(tick / 100), top, x(tick / 100), bottom, "grid")]
        parts += [_text(x(tick / 100), bottom + 16, f"{tick} %", "muted middle")]
    for index, group in enumerate(groups):
        y = top + ROW * (index + 0.5)
        parts.append(_text(left - 12, y + 4, group.label[:34], "end"))
        parts.append(_text(right + 10, y + 4, f"n {group.judged:,}", "muted"))
        if group.rate is not None:
            low, high = group.interval
            kind = "" if group.verdict.is_known else "unclear"
            whisker = _line(x(low), y, x(high), y, "whisker") + _dot(x(group.rate), y)
            parts.append(f'<g class="{kind}">{whisker}</g>')
    return _svg(bottom + 24, parts, "Acceptance rates with 95 % intervals; grey where there is not enough data")


def time_plot(told: Report) -> str:
    left, right, top, bottom = 46, WIDTH - 20, 24, 224
    start, end = told.bins[0].start, told.bins[-1].start + told.bin_seconds

    def x(at: float) -> float:
        return left + (at - start) / (end - start) * (right - left)

    def y(share: float) -> float:
        return bottom - share * (bottom - top)

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
    for phase in told.phases:
        if not start <= phase.at <= end:
            continue
        parts.append(_line(x(phase.at), top, x(phase.at), bottom, "mark"))
        # Where changes crowd, only the first is named.
        if x(phase.at) - last_label > 90:
            last_label = x(phase.at)
            parts.append(_text(last_label + 4, top - 8, phase.phase[:18], "muted"))
    middles = [(x(b.start + told.bin_seconds / 2), b) for b in told.bins]
    trend = " ".join(f"{middle:.1f},{y(b.accepted / b.judged):.1f}" for middle, b in middles)
    parts.append(f'<polyline class="trend" points="{trend}"/>')
    parts += [
        _time_mark(middle, b, y(b.accepted / b.judged), *map(y, wilson_interval(b.accepted, b.judged)))
        for middle, b in middles
    ]
    return _svg(bottom + 26, parts, "Acceptance rate over time with 95 % intervals")


def _time_mark(x: float, found: Bin, y: float, low: float, high: float) -> str:
    title = f"{moment(found.start)} UTC: {found.accepted} of {found.judged}"
    return f"<g><title>{title}</title>{_line(x, low, x, high, 'whisker')}{_dot(x, y, 3.5)}</g>"


def effect_plot(contrasts: Sequence[Contrast]) -> str:
    left, right, top = LABELS, WIDTH - 20, 22
    bottom = top + 22 * len(contrasts)

    def x(delta: float) -> float:
        return left + (delta + 1) / 2 * (right - left)

    parts = [
        _text(left, top - 8, "← rejected have more", "muted"),
        _text(right, top - 8, "accepted have more →", "muted end"),
    ]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        parts += [_line(x(tick), top, x(tick), bottom, "mark" if tick == 0 else "grid")]
        parts += [_text(x(tick), bottom + 16, f"{tick:+g}" if tick else "0", "muted middle")]
    for index, contrast in enumerate(contrasts):
        effect, y = contrast.effect, top + 22 * (index + 0.5)
        assert effect is not None
        parts.append(_text(left - 12, y + 4, contrast.column, "end"))
        whisker = _line(x(effect.low), y, x(effect.high), y, "whisker") + _dot(x(effect.delta), y)
        parts.append(f'<g class="{"" if effect.is_clear else "unclear"}">{whisker}</g>')
    return _svg(bottom + 24, parts, "Effect sizes with 95 % intervals")
