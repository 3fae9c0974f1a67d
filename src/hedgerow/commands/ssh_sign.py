"""``hedgerow ssh``: challenge, request, sign, sign-host."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import atomic, paths
from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.identity.profiles import check_client_name
from hedgerow.identity.ssh import challenges, client_key, proof
from hedgerow.identity.ssh.authority import Issued, SshAuthority
from hedgerow.identity.ssh.roles import ASKED
from hedgerow.output import json_option, out, print_json
from hedgerow.rollout import lease

_UNITS = {"m": 60, "h": 3600}


class _Life(click.ParamType[int]):
    """``30m`` or ``8h``, in seconds."""

    name = "life"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,5})([mh])", str(value))
        if found is None:
            self.fail(f"{value!r} is no life such as 30m or 8h", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


def _asking(command: Any) -> Any:
    """What ``request`` and ``sign`` ask with."""
    for option in reversed(
        (
            click.option("--role", type=click.Choice([role.value for role in ASKED]), help="What to be there."),
            click.option("--site", "sites", multiple=True, help="Every host of this site. Repeatable."),
            click.option("--all-sites", is_flag=True, help="Every host of the fleet."),
            click.option("--hosts", "hosts", multiple=True, metavar="HOST", help="This host alone. Repeatable."),
            click.option("--for", "seconds", type=_Life(), help="Life, 1m to 24h; else 8h, and 1h for admin."),
            click.option("--source", multiple=True, help="Count from this address or network alone. Repeatable."),
            click.option("--reason", default="", help="Why; it stays in the log."),
            click.option("--name", help="The operator: ca/clients/NAME.key of this controller signs the request."),
            click.option("--certificate", type=click.Path(path_type=Path), help="The operator's certificate instead."),
            click.option("--key", type=click.Path(path_type=Path), help="...and its key."),
            click.option("--public-key", type=click.Path(path_type=Path), help="Certify this key; else a fresh one."),
        )
    ):
        command = option(command)
    return command


@click.command()
@inventory_option
@json_option
def challenge(*, path: Path, as_json: bool) -> None:
    """Print a challenge for a request that is made on another machine; it counts once, for five minutes."""
    found = inventories.load(path)
    text = _open(found.fleet).challenge(now=_now())
    if as_json:
        print_json({"challenge": text, "seconds": challenges.LIFE.seconds})
    else:
        click.echo(text)


@click.command()
@inventory_option
@_asking
@click.option("--challenge", "text", required=True, help="What `hedgerow ssh challenge` printed on the controller.")
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="Write it here instead of to stdout.")
def request(*, path: Path, text: str, target: Path | None, public_key: Path | None, **asked: Any) -> None:
    """Make a signed request on the operator's own machine, for: hedgerow ssh sign --request FILE."""
    found = inventories.load(path)
    if public_key is None:
        raise click.UsageError("--public-key names the key that is to be certified")
    made = _request(found, text, _read(public_key), **asked)
    encoded = msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"
    if target is None:
        click.echo(encoded.decode(), nl=False)
    else:
        atomic.write_bytes(target, encoded)


@click.command()
@inventory_option
@_asking
@click.option(
    "--request",
    "request_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="A request that was made elsewhere (hedgerow ssh request); nothing else is asked then.",
)
@click.option("--agent", is_flag=True, help="The key goes into the SSH agent until it ends, and onto no disk.")
@click.option("-o", "--out", "target", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@json_option
def sign(
    *,
    path: Path,
    request_file: Path | None,
    agent: bool,
    target: Path | None,
    public_key: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Sign a short-lived SSH certificate for an operator, who proves it with the key of the fleet's certificate.

    Who may have which role where stands in the inventory: ssh_access_operators.
    """
    found = inventories.load(path)
    opened, now = _open(found.fleet), _now()
    private: bytes | None = None
    if request_file is not None:
        if agent or public_key is not None or asked["role"] is not None:
            raise click.UsageError("--request brings its own role and key")
        with click.open_file(str(request_file), encoding="utf-8") as file:
            wanted = _decode(file.read(), str(request_file))
        public = str(msgspec.json.decode(wanted.asked).get("public_key", ""))
    else:
        if public_key is not None:
            public = _read(public_key)
        else:
            private, public = client_key.fresh()
        wanted = _request(found, opened.challenge(now=now), public, **asked)
    issued = opened.sign_operator(wanted, found, now=now)
    if agent and private is not None:
        client_key.to_agent(private, issued.valid_before - now)
    files = _place(opened, issued, target, private=None if agent else private, public=public, beside=public_key)
    _tell(issued, files, as_json=as_json)


@click.command("sign-host")
@click.argument("host")
@inventory_option
@click.option(
    "--public-key",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="/etc/ssh/ssh_host_ed25519_key.pub of the host, brought here by a way that you trust.",
)
@click.option("--days", type=int, help="Life in days, at most 90; 60 if left out.")
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="Write it here instead of to stdout.")
def sign_host(*, host: str, path: Path, public_key: Path, days: int | None, target: Path | None) -> None:
    """Sign the host key of HOST. A converge does this; this command is for a key that a person carries here."""
    found = inventories.load(path)
    named = found.hosts.get(host)
    if named is None:
        raise UsageError(f"there is no host {host}", where=str(path), next_step="hedgerow inventory show")
    certificate = _open(found.fleet).sign_host(
        named, _read(public_key), days=days, reason="hedgerow ssh sign-host", now=_now()
    )
    if target is None:
        click.echo(certificate)
    else:
        atomic.write_text(target, f"{certificate}\n")


COMMANDS = (challenge, request, sign, sign_host)


def _request(found: inventories.Inventory, text: str, public: str, **asked: Any) -> proof.Request:
    if asked["role"] is None:
        raise click.UsageError("--role says what to be there: viewer, operator or admin")
    if asked["name"] is not None:
        check_client_name(asked["name"])
        clients = paths.fleet_dir(found.fleet) / "ca" / "clients"
        key, certificate = clients / f"{asked['name']}.key", clients / f"{asked['name']}.crt"
    elif asked["key"] is not None and asked["certificate"] is not None:
        key, certificate = asked["key"], asked["certificate"]
    else:
        raise click.UsageError("who asks? --name NAME, or --certificate FILE and --key FILE")
    return proof.ask(
        proof.Asked(
            fleet=found.fleet,
            challenge=text,
            role=asked["role"],
            sites=tuple(found.sites) if asked["all_sites"] else tuple(asked["sites"]),
            hosts=tuple(asked["hosts"]),
            seconds=asked["seconds"],
            public_key=public,
            source=tuple(asked["source"]),
            reason=asked["reason"],
        ),
        key=key,
        certificate=certificate,
    )


def _place(
    opened: SshAuthority,
    issued: Issued,
    target: Path | None,
    *,
    private: bytes | None,
    public: str,
    beside: Path | None,
) -> dict[str, Path]:
    """Write the certificates: beside a key that the operator has already, else into a folder with the fresh one."""
    if beside is not None and target is None:
        stem = beside.with_name(beside.name.removesuffix(".pub"))
        found = {"key": stem, "certificate": stem.with_name(f"{stem.name}-cert.pub")}
        atomic.write_text(found["certificate"], f"{issued.certificate}\n")
        if issued.jump is not None:
            found["jump"] = stem.with_name(f"{stem.name}-jump-cert.pub")
            atomic.write_text(found["jump"], f"{issued.jump}\n")
        return found
    files = client_key.Files(target or client_key.folder(opened.fleet_dir, issued.name))
    client_key.write(files, private, public, issued.certificate, issued.jump)
    found = {"key": files.key, "certificate": files.certificate}
    return found if issued.jump is None else found | {"jump": files.jump}


def _tell(issued: Issued, files: dict[str, Path], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": issued.name,
                "role": issued.grant.role,
                "principals": issued.grant.principals,
                "serial": str(issued.serial),
                "valid_before": issued.valid_before.isoformat(),
                **files,
            }
        )
        return
    until = f"{issued.valid_before:%Y-%m-%d %H:%M} UTC"
    out.print(f"{issued.name}: {', '.join(issued.grant.principals)} until {until}", highlight=False)
    out.print(f"  {files['certificate']}", highlight=False, soft_wrap=True)


def _decode(text: str, where: str) -> proof.Request:
    try:
        return msgspec.json.decode(text, type=proof.Request)
    except msgspec.MsgspecError as error:
        raise UsageError(f"this is no request for an SSH certificate: {error}", where=where) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the public key cannot be read: {error}", where=str(path)) from error


def _open(fleet: str) -> SshAuthority:
    return SshAuthority.open(paths.fleet_dir(fleet), by=lease.whoami())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
