"""``hedgerow ssh``: revoke, rotate, break-glass."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.identity.ssh import changing, events, keygen, known_hosts, publickey
from hedgerow.identity.ssh.authority import SshAuthority
from hedgerow.output import json_option, out, print_json
from hedgerow.rollout import lease

reason_option = click.option("--reason", required=True, help="Why; it stays in the log.")
_PLAYBOOK = "ansible-playbook playbooks/ssh_access.yml"


@click.command()
@inventory_option
@click.option("--operator", help="What this operator has now.")
@click.option("--host", help="A host's certificates and its key; it needs another key afterwards.")
@click.option("--serial", help="One certificate by its number (hedgerow ssh list).")
@click.option("--key", help="A key, by its .pub file or its fingerprint (SHA256:…).")
@reason_option
@json_option
def revoke(
    *,
    path: Path,
    operator: str | None,
    host: str | None,
    serial: str | None,
    key: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Let certificates count no more. Hosts refuse them when they have the list: playbooks/ssh_access.yml.

    An operator who is to get none any more is revoked at the fleet CA, too: hedgerow ca revoke NAME.
    """
    named: list[tuple[changing.Kind, str]] = []
    named += [("operator", operator)] if operator else []
    named += [("host", host)] if host else []
    named += [("serial", serial)] if serial else []
    named += [("key", _fingerprint(key))] if key else []
    if len(named) != 1:
        raise click.UsageError("name one of --operator, --host, --serial, --key")
    opened = _open(path)
    line, changed = changing.revoke(opened, *named[0], reason=reason, now=_now())
    if as_json:
        print_json({"changed": changed, **msgspec.to_builtins(line)})
        return
    count = sum(len(serials) for serials in line.serials.values())
    done = f"{count} certificates and {len(line.keys)} keys count no more" if changed else "nothing was left to revoke"
    out.print(f"{line.what}: {done}", highlight=False)
    if changed:
        out.print(f"next: {_PLAYBOOK}", highlight=False)


@click.group()
def rotate() -> None:
    """Exchange a CA's key with overlap: begin, converge, switch, converge, finish, converge."""


def _step(name: changing.Step, text: str) -> click.Command:
    """One step as a command; its help is ``text``."""

    @click.command(name, help=text)
    @inventory_option
    @click.option("--kind", type=click.Choice(["user", "host"]), required=True, help="Which CA.")
    @click.option("--token", metavar="LIBRARY:LABEL", help="begin: the new key is on this PKCS#11 token.")
    @click.option("--force", is_flag=True, help="finish: though certificates of the old key are alive.")
    @json_option
    def command(*, path: Path, kind: events.CaKind, token: str | None, force: bool, as_json: bool) -> None:
        found = inventories.load(path)
        opened = _open(path)
        tokens = parse_tokens([f"{kind}={token}"] if token else [])
        about = changing.rotate(opened, kind, name, token=tokens.get(kind), force=force, now=_now())
        known_hosts.write(found.host_authorities, known_hosts.lines(found, opened.trusted("host")))
        if as_json:
            print_json({"changed": True, "key": about.name, "kind": kind, "step": name})
            return
        said = {
            "begin": "is trusted beside the present one",
            "switch": "signs from now on",
            "finish": "is trusted no more",
        }
        out.print(f"{about.name} {said[name]}; next: {_PLAYBOOK}", highlight=False)

    return command


rotate.add_command(_step("begin", "Make the next key, trusted beside the present one; it does not sign yet."))
rotate.add_command(_step("switch", "Let the next key sign; the present one stays trusted. Every host has it by now."))
rotate.add_command(_step("finish", "Trust the old key no more. Refused while certificates that it signed are alive."))


@click.group("break-glass")
def break_glass() -> None:
    """The key in the safe: for the day when no certificate can be signed or read (docs/ssh.md)."""


@break_glass.command()
@inventory_option
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="File on the medium for the safe."
)
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Its own passphrase, kept apart from the medium: another safe, another person.",
)
@reason_option
@json_option
def make(*, path: Path, target: Path, passphrase_file: Path, reason: str, as_json: bool) -> None:
    """Make the key on a medium that goes into the safe; this controller keeps its public part alone."""
    secret = keygen.checked(passphrase_file)
    opened = _open(path)
    shown = changing.make_break_glass(opened, target, secret, reason=reason, now=_now())
    _tell_safe("made", shown, as_json=as_json)


@break_glass.command()
@inventory_option
@reason_option
@json_option
def retire(*, path: Path, reason: str, as_json: bool) -> None:
    """Let the key in the safe count no more: after each use, and when the seal is found broken."""
    _tell_safe("retired", changing.retire_break_glass(_open(path), reason=reason, now=_now()), as_json=as_json)


COMMANDS = (revoke, rotate, break_glass)


def parse_tokens(texts: Iterable[str]) -> dict[events.CaKind, tuple[str, str]]:
    """``user=LIBRARY:LABEL`` → {"user": (library, label)}."""
    found: dict[events.CaKind, tuple[str, str]] = {}
    for text in texts:
        kind, _, rest = text.partition("=")
        library, _, label = rest.partition(":")
        if kind not in {"user", "host"} or not library or not label:
            raise click.UsageError(f"{text!r} is not KIND=LIBRARY:LABEL, with the kind user or host")
        found["user" if kind == "user" else "host"] = (library, label)
    return found


def _tell_safe(done: str, shown: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"changed": True, "step": done, "fingerprint": shown})
    else:
        out.print(f"{done}: {shown}; next: {_PLAYBOOK}", highlight=False, soft_wrap=True)


def _fingerprint(text: str) -> str:
    if text.startswith("SHA256:"):
        return text
    try:
        line = Path(text).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the public key cannot be read: {error}", where=text) from error
    return publickey.fingerprint(publickey.parse(line, where=text))


def _open(path: Path) -> SshAuthority:
    return SshAuthority.open(paths.fleet_dir(inventories.load(path).fleet), by=lease.whoami())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
