"""Help texts are read by people: click's paragraph mark must not show."""

import click
import pytest

from hedgerow.cli import cli
from hedgerow.device.cli import cli as device_cli


def commands(command, path):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


ALL = [*commands(cli, "hedgerow"), *commands(device_cli, "hedgerow-device")]


@pytest.mark.parametrize("command", [pytest.param(command, id=path) for path, command in ALL])
def test_help_reads_well(command):
    with click.Context(command) as context:
        text = command.get_help(context)
    assert "\\b" not in text
    assert command.help, "say what it does"
    undescribed = [param.name for param in command.params if isinstance(param, click.Option) and not param.help]
    assert not undescribed
