"""``hedgerow serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.server.config import Address


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="A device's configuration, /etc/hedgerow/server.yml.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of models, served on loopback in plain HTTP and gRPC.",
)
@click.option("--http", default="127.0.0.1:8000", show_default=True, help="With --repository: where to listen.")
@click.option("--grpc", default="127.0.0.1:8001", show_default=True, help="The same for gRPC; 'none' to do without.")
@click.option(
    "--memory-budget",
    type=click.IntRange(min=1),
    metavar="MB",
    help="With --repository: load models when they are asked for, and unload the least recently used beyond this.",
)
@click.option(
    "--keep-alive",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --repository: load models when they are asked for, and unload those that nobody asks for this long.",
)
@click.option(
    "--minimum-stay",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="With either of these: how long a model stays after it was loaded.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="MODEL",
    help="With either of these: a model that is loaded at the start and stays; repeatable.",
)
@click.option("--threads", type=click.IntRange(min=1), help="With --repository: of one model; else by the cores.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="With --repository: an execution provider of ONNX Runtime, best first, before the CPU; repeatable.",
)
@click.option("--isolate", is_flag=True, help="With --repository: a process of its own for each model.")
def serve(
    config: Path | None,
    repository: Path | None,
    *,
    http: str,
    grpc: str,
    memory_budget: int | None,
    keep_alive: float | None,
    minimum_stay: float,
    pins: tuple[str, ...],
    threads: int | None,
    providers: tuple[str, ...],
    isolate: bool,
) -> None:
    """Run the inference server.

    \b
    On a device:      hedgerow serve --config /etc/hedgerow/server.yml
    On a workstation: hedgerow serve --repository models/ --http 127.0.0.1:8000 --grpc 127.0.0.1:8001
                      hedgerow serve --repository models/ --memory-budget 8000 --keep-alive 600 --pin assistant
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.server import config as configs
    from hedgerow.server.computing import Computing, Provider
    from hedgerow.server.isolation.nursery import Nursery
    from hedgerow.server.redaction import Redactor
    from hedgerow.server.residency import Rules
    from hedgerow.server.telemetry import logs
    from hedgerow.server.telemetry.config import Logs

    if (config is None) == (repository is None):
        raise UsageError("give exactly one of --config and --repository", next_step="hedgerow serve --help")
    on_demand = memory_budget is not None or keep_alive is not None
    if on_demand and config is not None:
        raise UsageError(
            "--memory-budget and --keep-alive are for a repository; a device serves one model",
            next_step="hedgerow serve --help",
        )
    if pins and not on_demand:
        raise UsageError(
            "--pin is for models that would be unloaded otherwise",
            where="--pin",
            next_step="give --memory-budget or --keep-alive, too",
        )
    if config is not None and (threads is not None or providers or isolate):
        raise UsageError(
            "--threads, --provider and --isolate are for a repository",
            where=str(config),
            next_step="a device's configuration says 'threads', 'providers' and 'isolate'",
        )
    if config is not None:
        settings, version = configs.read(config)
        logs.configure(settings.telemetry.logs, Redactor(words=settings.telemetry.words))
        nursery = Nursery.fork() if settings.isolate else None
        from hedgerow.server import run  # behind the fork, which then copies next to nothing

        run.serve_device(settings, version, nursery=nursery)
        return
    logs.configure(Logs(format="text", level="warning"), Redactor())
    if repository is not None:
        nursery = Nursery.fork() if isolate else None
        from hedgerow.server import run  # see above

        run.serve_folder(
            repository,
            _loopback(http, "HTTP"),
            configs.Limits(),
            grpc=None if grpc == "none" else _loopback(grpc, "gRPC"),
            residency=Rules(
                None if memory_budget is None else memory_budget << 20, keep_alive, minimum_stay, frozenset(pins)
            )
            if on_demand
            else None,
            computing=Computing(threads, tuple(Provider(name) for name in providers), nursery),
        )


def _loopback(text: str, protocol: str) -> Address:
    from hedgerow.server import config as configs

    address = configs.Address.parse(text)
    if not address.is_loopback:
        raise UsageError(
            f"{text} is not on loopback, and plain {protocol} has no authentication",
            where=f"--{protocol.lower()}",
            next_step="listen on 127.0.0.1, or use --config with mutual TLS",
        )
    return address
