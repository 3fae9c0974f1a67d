"""The process: one port with mutual TLS that also lets in certificates whose time is over, signals, notifications.

OpenSSL is told to leave times to us (``X509_V_FLAG_NO_CHECK_TIME``, which Python has no name for): ``app.Guard`` and
``rules`` look at them, for the holder and for every authority of the chain. No other server of Hedgerow does so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from pathlib import Path
from typing import Final

import uvloop

from hedgerow.device.notify import notify
from hedgerow.errors import HedgerowError, UsageError
from hedgerow.gateway.renewal import lists as served
from hedgerow.gateway.renewal.app import ChainProtocol, application, keep_current
from hedgerow.gateway.renewal.config import RenewalConfig
from hedgerow.gateway.renewal.history import History
from hedgerow.gateway.renewal.service import Renewals
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.tls import CRL
from hedgerow.server import systemd
from hedgerow.server.config import Limits, credential
from hedgerow.server.sockets import listen
from hedgerow.server.tls import ServerTls
from hedgerow.server.web import Listener, Server, uvicorn_config

log = logging.getLogger("hedgerow.renewal")
# OpenSSL, x509_vfy.h: X509_V_FLAG_NO_CHECK_TIME.
NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)


def prepare(config: RenewalConfig) -> tuple[Listener, served.ServedLists]:
    """Open all that the service needs, and bind its port.

    Raises:
        UsageError, MachineError, RefusedError, ChainError: a file is missing, damaged or open to others; the port is
            taken.
    """
    ca = IssuingCA.open(_folder(config.issuing), state=config.state_dir)
    if ca.fleet != config.fleet or ca.site not in {None, config.site}:
        raise UsageError(
            f"the issuing CA is {ca.fleet}'s{'' if ca.site is None else f', site {ca.site}'}; "
            f"this gateway is of {config.fleet}, site {config.site}",
            where=config.issuing,
            next_step="place the CA of this site",
        )
    cleared = {board.serial: board.cleared for board in config.boards if board.cleared is not None}
    history = History(config.state_dir, cleared)
    renewals = Renewals(config, ca, history)
    files = served.ServedLists(ca, config.tls.crl or CRL)
    files.refresh()
    tls = ServerTls(
        *(credential(name) for name in (config.tls.certificate, config.tls.key, config.tls.client_ca)),
        crl=config.tls.crl,
        flags=NO_CHECK_TIME,
    )
    app = application(config, renewals, files, ca.log)
    return Listener(listen(config.tls.listen), app, tls), files


def serve(config: RenewalConfig) -> None:
    """Serve until SIGTERM; SIGHUP reads the server's own certificate again. Raises as ``prepare``."""
    listener, files = prepare(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(listener, files))


async def _serve(listener: Listener, files: served.ServedLists) -> None:
    tls = listener.tls
    assert tls is not None  # noqa: S101 - ``prepare`` made it
    server = Server(uvicorn_config(listener, Limits(drain_s=5.0), ChainProtocol))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    def reload() -> None:
        try:
            tls.reload()
            log.info("%s: certificate read again; it ends %s", listener, tls.expires)
        except HedgerowError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is complete

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    aside = [asyncio.create_task(keep_current(files, served.LOOK_S)), asyncio.create_task(systemd.keep_alive())]
    if tls.admission is not None:
        aside.append(asyncio.create_task(tls.admission.watch()))
    log.info("renewing at %s; the issuing CA ends %s", listener, files.issuer_ends)
    notify("READY=1")
    try:
        await server.serve(sockets=[listener.socket])
    finally:
        notify("STOPPING=1")
        for task in aside:
            task.cancel()


def _folder(name: str) -> Path:
    """A folder; a relative one lies among the unit's credentials."""
    path = Path(name)
    return path if path.is_absolute() else credential(os.curdir) / path
