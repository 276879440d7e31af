"""The report on the ledger: built once, written as text, JSON, CSV or one HTML page with plots."""

from miner.analytics.report.build import read_report
from miner.analytics.report.data import as_csv, as_json
from miner.analytics.report.formatting import calibration_title, explain_emptiness, forecast_lines, gate_lines
from miner.analytics.report.html import as_html
from miner.analytics.report.text import as_text

__all__ = [
    "as_csv", "as_html", "as_json", "as_text", "calibration_title", "explain_emptiness", "forecast_lines", "gate_lines",
    "read_report",
]  # fmt: skip
