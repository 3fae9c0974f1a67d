"""``hedgerow-device renewal``: the gateway's renewal service, and what nginx needs of the revocation lists."""

from __future__ import annotations

from pathlib import Path

import click

from hedgerow.gateway.renewal import config as configs


@click.group()
def renewal() -> None:
    """On a gateway: renew the certificates of this site's devices."""


_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=configs.DEFAULT_PATH,
    show_default=True,
    help="Who may renew, and where the service listens.",
)


@renewal.command()
@_config
def serve(*, path: Path) -> None:
    """Run the service until it is stopped; SIGHUP reads its own certificate again."""
    from hedgerow.gateway.renewal import run
    from hedgerow.server.redaction import Redactor
    from hedgerow.server.telemetry import logs
    from hedgerow.server.telemetry.config import Logs

    logs.configure(Logs(format="text", level="info"), Redactor())
    run.serve(configs.load(path))


@renewal.command()
@_config
def check(*, path: Path) -> None:
    """Read the configuration and say who may renew; nothing is started."""
    found = configs.load(path)
    click.echo(f"{len(found.boards)} boards of site {found.site} may renew at port {found.tls.port}")


@renewal.command()
@click.option("--site", required=True, help="The site whose machines this CA is to certify.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=configs.ISSUING,
    show_default=True,
    help="Where its key is made, and stays.",
)
def request(*, site: str, directory: Path) -> None:
    """Make the key of the site's issuing CA, unless it is there, and the request that the fleet's root signs."""
    from hedgerow.identity.authority import making

    path = making.kept_request(directory, site)
    click.echo(f"{path}; have the root sign it, on the controller: hedgerow ca issuing sign FILE --site {site}")


@renewal.command("lists")
@click.option("--reload", "unit", help="A unit that reads the map, to be reloaded when it has changed: nginx.service.")
def gather_lists(*, unit: str | None) -> None:
    """Put the controller's revocation lists and this gateway's own together, and make nginx's map of them."""
    from hedgerow.device.identity.config import Service
    from hedgerow.device.identity.renewal import tell
    from hedgerow.errors import PartialError
    from hedgerow.gateway.revocation import Places, gather

    done = gather(Places())
    for issuer in done.left_out:
        click.echo(f"left out, for no CA that this gateway trusts signed it: the list of {issuer}")
    if unit is not None and done.map_changed and tell((Service(unit, "reloaded"),)):
        raise PartialError(
            f"the lists are in place, and {unit} goes by the ones before",
            where=unit,
            next_step=f"sudo nginx -t; sudo systemctl reload {unit}",
        )
    click.echo(f"{len(done.numbers)} lists, {'changed' if done.changed else 'as before'}")


@renewal.command("nginx-map")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write it here, in one step; else print it.")
def nginx_map(*, bundle: Path, output: Path | None) -> None:
    """Turn a bundle of revocation lists into the map that nginx refuses revoked certificates by."""
    from hedgerow import atomic
    from hedgerow.errors import UsageError
    from hedgerow.gateway.nginx import revocation_map

    try:
        text = revocation_map(bundle.read_bytes() if bundle.exists() else b"")
    except (OSError, ValueError) as error:
        raise UsageError(f"the lists cannot be read: {error}", where=str(bundle)) from error
    if output is None:
        click.echo(text, nl=False)
    else:
        atomic.write_text(output, text)
