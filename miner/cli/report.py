"""sn17-miner report: acceptance rates from the ledger, with how certain they are."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from miner.cli.options import FILE, ledger_option, load_files, operator_files, parse_time
from miner.cli.output import write_output

if TYPE_CHECKING:
    from miner.analytics import By

SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Since(click.ParamType[float]):
    """A moment as unix seconds, given as a period before now or as an ISO 8601 time, UTC unless it names a zone."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a period such as 24h (m, h, d, w) or a time such as 2025-11-04."""
        if not isinstance(value, str):
            return value
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value):
            return time.time() - float(match[1]) * SECONDS[match[2]]
        try:
            return parse_time(value).timestamp()
        except ValueError:
            self.fail(f"{value!r} is neither a period such as 24h or 7d nor a time such as 2025-11-04", param, ctx)


@click.command()
@click.option("--since", type=Since(), default=0.0, show_default="everything", help="24h, 7d, or an ISO 8601 time.")
@click.option(
    "--by", type=click.Choice(["phase", "validator", "type", "hour"]), default="phase", help="The groups of tasks."
)
@ledger_option
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "csv", "html"]),
    default="text",
    help="How the report is written; html has plots.",
)
@click.option("-o", "--output", type=FILE, show_default="the standard output", help="The file to write.")
@operator_files
def report(
    since: float,
    by: "By",
    ledger: Path | None,
    output_format: Literal["text", "json", "csv", "html"],
    output: Path | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Report how much validators accept.

    By phase, validator, type or hour, and how certain that is. A rate is that of the accepted among the judged results,
    with its 95 % Wilson interval. The miner may run meanwhile.
    """
    import gc

    # A hundred thousand rows are searched for garbage again and again, and a process this short leaves none.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)

    from miner.analytics import Scale
    from miner.analytics.report import as_csv, as_html, as_json, as_text, explain_emptiness, read_report

    files = load_files(config, state)
    content = read_report(ledger or files.ledger, by, since, Scale.of(files.settings.bands))
    if not content.total.summary.tasks and output_format != "text":
        click.echo(explain_emptiness(content), err=True)
    text = {"text": as_text, "json": as_json, "csv": as_csv, "html": as_html}[output_format](content)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_output(output, text)
