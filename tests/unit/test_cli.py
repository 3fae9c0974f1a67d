import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hedgerow import cli
from hedgerow.commands import rollout
from hedgerow.errors import ExitCode, RefusedError, UsageError


def test_help_lists_every_command():
    with click.Context(cli.cli) as context:
        text = cli.cli.get_help(context)
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("where", [*cli.COMMANDS.values(), *rollout.COMMANDS.values()], ids=lambda entry: entry[0])
def test_every_listed_command_exists_and_has_help(where):
    module, _, attribute = where[0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.help


@pytest.mark.parametrize("entries", [cli.COMMANDS, rollout.COMMANDS], ids=["hedgerow", "rollout"])
def test_commands_are_called_as_they_are_listed(entries):
    for name, (where, _) in entries.items():
        module, _, attribute = where.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_no_command_of_a_rollout_is_left_out():
    folder = Path(rollout.__file__).parent
    modules = [importlib.import_module(f"hedgerow.commands.{file.stem}") for file in folder.glob("rollout_*.py")]
    made = {each.name for module in modules for each in vars(module).values() if isinstance(each, click.Command)}
    assert made == set(rollout.COMMANDS)


def test_an_emergency_stop_waits_for_no_module_that_it_does_not_need():
    """What a stop imports is on its way to the fleet; boto3 and matplotlib alone take as long as the rest of it."""
    code = "import sys; from hedgerow.commands import rollout_steering; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"boto3", "matplotlib", "tuf", "httpx", "ansible"} & set(done.stdout.split())


def failing(error):
    @click.command()
    def command():
        raise error

    return command


@pytest.mark.parametrize("error, code", [(UsageError("u"), ExitCode.USAGE), (RefusedError("r"), ExitCode.REFUSED)])
def test_errors_become_exit_codes(monkeypatch, error, code):
    monkeypatch.setattr("sys.argv", ["hedgerow"])
    assert cli.run(failing(error), "hedgerow") == code


def test_an_error_says_what_where_and_what_next(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hedgerow"])
    cli.run(failing(UsageError("no such key", where="hosts.yml:3", next_step="spell it 'cooling'")), "hedgerow")
    text = capsys.readouterr().err
    assert "no such key" in text
    assert "where: hosts.yml:3" in text
    assert "next: spell it 'cooling'" in text


def test_with_json_an_error_is_json(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hedgerow", "--json"])
    command = failing(RefusedError("too old", where="host"))
    command.params.append(click.Option(["--json", "as_json"], is_flag=True, expose_value=False))
    assert cli.run(command, "hedgerow") == ExitCode.REFUSED
    assert json.loads(capsys.readouterr().err) == {
        "error": "RefusedError",
        "what": "too old",
        "where": "host",
        "next": None,
        "exit_code": 3,
    }


def test_wrong_use_is_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hedgerow", "no-such-command"])
    assert cli.run(cli.cli, "hedgerow") == ExitCode.USAGE
    assert "no-such-command" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hedgerow"])
    assert cli.run(failing(KeyboardInterrupt()), "hedgerow") == 130
    assert "run the same command to go on" in capsys.readouterr().err
