"""What commands print: a table for people, JSON for machines, progress on long work.

Colour and moving bars only on a terminal: rich decides that from the stream,
and honours NO_COLOR. Data goes to stdout; progress and remarks go to stderr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console, ConsoleDimensions
from rich.table import Table

# Rich takes 80 columns where there is no terminal; logs and CI are wider than that.
_LOG_SIZE = ConsoleDimensions(130, 25)


class _Console(Console):
    """As rich's, with room in logs; ``COLUMNS`` still decides where it is set."""

    @property
    def size(self) -> ConsoleDimensions:
        if self.is_terminal:
            return super().size
        columns = os.environ.get("COLUMNS", "")
        return ConsoleDimensions(int(columns), _LOG_SIZE.height) if columns.isdigit() else _LOG_SIZE

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


out = _Console()
err = _Console(stderr=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; a cell is shown with ``str``, None as a dash."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    out.print(table)


def step(text: str) -> None:
    """Name a step of long work on stderr."""
    err.print(f"[bold]==>[/bold] {text}", highlight=False)
