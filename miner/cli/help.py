"""How commands show their help: options in groups, then examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

# Of every command that has them.
COMMON_GROUPS = {"Files of the miner": ("config", "state", "ledger")}
OTHERS = "Options"


class HelpfulCommand(click.Command):
    """A command with titles over its options and with examples.

    option_groups: the names of parameters by title. examples: command lines without the program's name.
    """

    def __init__(
        self, *arguments: Any, option_groups: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[str] = (), **attributes: Any,
    ) -> None:  # fmt: skip
        """Build the command; options that no group names come after the groups, before what commands have in common."""
        super().__init__(*arguments, **attributes)
        self.option_groups = {**(option_groups or {}), OTHERS: (), **COMMON_GROUPS}
        self.examples = tuple(f"sn17-miner {example}" for example in examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options under its title."""
        titles = {name: title for title, names in self.option_groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in self.option_groups}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[titles.get(parameter.name or "", OTHERS)].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line that can be copied."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class HelpfulGroup(click.Group):
    """A group of such commands."""

    command_class = HelpfulCommand
