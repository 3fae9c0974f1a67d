"""Groups of commands that import a command when it is asked for, and list all of them without importing any."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

Entries = Mapping[str, tuple[str, str]]
"""Name → where it is (``module:attribute``), and its line in ``--help``."""


class LazyGroup(click.Group):
    """A group of ``entries``, in their order."""

    def __init__(self, *arguments: Any, entries: Entries, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - same
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - same
        # The stock version imports every command for its help line.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.entries.items()])
