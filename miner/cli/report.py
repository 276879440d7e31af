"""sn17-miner report: acceptance rates from the ledger, with how certain they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from miner.cli.help import HelpfulCommand
from miner.cli.options import FILE, ledger_option, load_files, operator_files
from miner.cli.output import write_output
from miner.cli.task_filter import FILTER_NAMES, task_filter_options

if TYPE_CHECKING:
    from miner.analytics import By, TaskFilter


class Dimensions(click.ParamType["By"]):
    """Dimensions of the ledger, each once, separated by commas."""

    name = "dimensions"

    def convert(self, value: "str | By", param: click.Parameter | None, ctx: click.Context | None) -> "By":
        """Parse phase, or phase,validator."""
        if not isinstance(value, str):
            return value
        from miner.analytics import DIMENSIONS

        known = {str(dimension): dimension for dimension in DIMENSIONS}
        names = [name.strip() for name in value.split(",")]
        for name in names:
            if name not in known:
                self.fail(f"{name!r} is none of {', '.join(known)}", param, ctx)
        if len(set(names)) < len(names):
            self.fail(f"{value!r} names one twice", param, ctx)
        return tuple(known[name] for name in names)


@click.command(
    cls=HelpfulCommand,
    option_groups={"Which tasks": FILTER_NAMES, "How they are reported": ("by", "output_format", "output")},
    examples=(
        "report --since 24h",
        "report --by phase,validator --type image --last 500",
        "report --phase phase3 --by hour --format html -o report.html",
    ),
)
@click.option(
    "--by",
    type=Dimensions(),
    default="phase",
    help="The groups of tasks: phase, validator, type, hour, or several: phase,validator.",
)
@task_filter_options
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
    by: "By",
    task_filter: "TaskFilter",
    ledger: Path | None,
    output_format: Literal["text", "json", "csv", "html"],
    output: Path | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Report how much validators accept.

    By phase, validator, type or hour, and how certain that is. A rate is that of the accepted among the judged results,
    with its 95 % Wilson interval. Several dimensions give a group for each combination that occurs, and compare the
    first among groups that are alike in the others. The miner may run meanwhile.
    """
    import gc

    # A hundred thousand rows are searched for garbage again and again, and a process this short leaves none.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)

    from miner.analytics import Scale
    from miner.analytics.report import as_csv, as_html, as_json, as_text, explain_emptiness, read_report

    files = load_files(config, state)
    content = read_report(ledger or files.ledger, by, task_filter, Scale.of(files.settings.bands))
    if not content.total.summary.tasks and output_format != "text":
        click.echo(explain_emptiness(content), err=True)
    text = {"text": as_text, "json": as_json, "csv": as_csv, "html": as_html}[output_format](content)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_output(output, text)
