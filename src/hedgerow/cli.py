"""``hedgerow``: one readable list of commands.

Groups load on first use: a device has no ansible and no rich, and
``hedgerow --help`` answers at once everywhere.
"""

from __future__ import annotations

import json
import sys

import click

from hedgerow import __version__
from hedgerow.commands.lazy import Entries, LazyGroup
from hedgerow.errors import ExitCode, HedgerowError

COMMANDS: Entries = {
    "demo": ("hedgerow.commands.demo:demo", "From nothing to three serving emulated Pis, every step named."),
    "emulate": ("hedgerow.commands.emulate:emulate", "Build, boot, alter and remove emulated Pi hosts."),
    "inventory": ("hedgerow.commands.inventory:inventory", "Check and show an inventory."),
    "release": ("hedgerow.commands.release:release", "Judge a version lock before a host is touched."),
    "ca": ("hedgerow.commands.ca:ca", "The fleet's certificate authority."),
    "audit": ("hedgerow.commands.audit:audit", "Who did what when, in one tamper-evident log."),
    "backup": ("hedgerow.commands.backup:backup", "Keep a fleet's keys and journals, and get them back."),
    "ssh": ("hedgerow.commands.ssh:ssh", "SSH by short-lived certificates, and hosts that prove who they are."),
    "model": ("hedgerow.commands.model:model", "Build model bundles from checkpoints."),
    "runtime": ("hedgerow.commands.runtime:runtime", "Build the wheelhouse that devices install."),
    "registry": ("hedgerow.commands.registry:registry", "Sign, publish and verify bundles."),
    "rollout": ("hedgerow.commands.rollout:rollout", "Start, watch and undo rolling updates."),
    "fleet": ("hedgerow.commands.fleet:fleet", "Tables and questions over the whole fleet."),
    "host": ("hedgerow.commands.host:host", "One host, explained."),
    "serve": ("hedgerow.commands.serve:serve", "Run the inference server."),
    "vision": ("hedgerow.commands.vision:vision", "Put cameras in front of a detection model."),
}


@click.command(cls=LazyGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hedgerow")
def cli() -> None:
    """Fleets of Raspberry Pi 5 + AI HAT+ 2, from one inventory.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by policy,
    4 partly done and resumable.

    \b
    Shell completion: eval "$(_HEDGEROW_COMPLETE=bash_source hedgerow)"
    """  # noqa: D301 - click's mark for a paragraph as it stands


def run(command: click.Command, prog_name: str) -> int:
    """Run ``command`` with Hedgerow's error rendering; return its exit code."""
    try:
        result = command.main(prog_name=prog_name, standalone_mode=False)
    except HedgerowError as error:
        if "--json" in sys.argv:
            click.echo(json.dumps(error.as_dict()), err=True)
        else:
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USAGE)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted: what was finished stays; run the same command to go on", err=True)
        return 130
    return result if isinstance(result, int) else int(ExitCode.OK)


# Groups whose commands are written down elsewhere; the audit log takes it from there when they end.
_AUDITED = frozenset({"ca", "registry", "rollout", "ssh"})


def main() -> None:
    code = run(cli, "hedgerow")
    if len(sys.argv) > 1 and sys.argv[1] in _AUDITED and not {"-h", "--help"} & set(sys.argv):
        from hedgerow.audit.after import collect_all

        collect_all()
    sys.exit(code)


if __name__ == "__main__":
    main()
