"""Who may do what, over real TLS with real certificates: every profile, every verb, and what is no good certificate.

``MAY`` is docs/contracts.md, "Certificate profiles", verb by verb; the registry's part of it is nginx's
(tests/unit/identity/test_renewal_nginx.py). The guard stands before all routing, so an application that answers
everything shows exactly what it lets through; test_process and test_grpc ask the whole server.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from pathlib import Path

import grpc
import pytest
import server_support as everyday
import tls_support as support
import uvloop
from cryptography.x509.oid import ExtendedKeyUsageOID
from tls_support import SERIAL, Door, Signer, asked, caller, connected

from hedgerow.identity import certificates
from hedgerow.identity.profiles import Profile
from hedgerow.server.access import ByProfile
from hedgerow.server.config import Address, Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.protocols.grpc import messages, service
from hedgerow.server.protocols.grpc.port import GrpcPort, Guard

VERBS = {
    "infer": "/v2/models/assistant/infer",
    "chat": "/v1/chat/completions",
    "load": "/v2/repository/models/assistant/load",
    "unload": "/v2/repository/models/assistant/unload",
    "drain": "/control/v1/drain",
    "metrics": "/metrics",
    "report": "/health/report",
    "unknown": "/added/later",
}
SEEN, ASKED = {"metrics", "report"}, {"infer", "chat"}
MAY = {
    Profile.DEVICE: set(),
    Profile.GATEWAY: SEEN,
    Profile.MONITOR: SEEN,
    Profile.CLIENT: ASKED,
    Profile.OPERATOR: set(VERBS),
    Profile.PUBLISHER: set(),
}
CALLS = {"infer": "ModelInfer", "load": "RepositoryModelLoad", "unload": "RepositoryModelUnload"}
REFUSED = (OSError,)  # ssl's and the connection's


class GrpcDoor:
    """The gRPC port behind mutual TLS, over a data plane without models; on a thread of its own."""

    def __init__(self, tls, folder: Path) -> None:
        self.tls = tls
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(support.PATIENCE_S)

    def call(self, function):
        async def on_loop():
            return function()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(support.PATIENCE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(support.PATIENCE_S)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            plane = DataPlane(self._folder, limits=Limits())
            plane._opened = True
            guard = Guard(fleet=support.FLEET, site=support.SITE, admission=self.tls.admission)
            port = GrpcPort(plane, Address("127.0.0.1", 0), Limits(drain_s=1.0), self.tls, guard)
            await port.start()
            self.port = port.port
            self._ready.set()
            await self._stop.wait()
            await port.stop()
            await plane.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())


class Doors:
    """Both, with one CA; ``crl`` is the file of lists."""

    def __init__(self, folder: Path, signer: Signer, running: list) -> None:
        self.signer, self.crl = signer, folder / "crl.pem"
        (folder / "models").mkdir()
        support.write_server_files(folder / "server", signer)
        app = ByProfile(support.hello, fleet=support.FLEET, site=support.SITE)
        self.rest = Door(support.opened(folder / "server", self.crl), app)
        running.append(self.rest)
        self.grpc = GrpcDoor(support.opened(folder / "server", self.crl), folder / "models")
        running.append(self.grpc)

    def verbs(self, pair) -> set[str]:
        """What REST lets through."""
        with connected(self.rest.port, caller(pair, self.signer.root)) as connection:
            return {verb for verb, path in VERBS.items() if asked(connection, path) == 200}

    def calls(self, pair) -> set[str]:
        """What gRPC lets through; what it answers then is the data plane's business."""
        with self.channel(pair) as channel:
            codes = {verb: code_of(channel, name) for verb, name in CALLS.items()}
        refused = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
        return {verb for verb, code in codes.items() if code not in refused}

    def channel(self, pair) -> grpc.Channel:
        files = (None, None) if pair is None else (pair.key.read_bytes(), pair.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials(certificates.pem(self.signer.root).encode(), *files)
        options = [("grpc.ssl_target_name_override", support.NAME)]
        return grpc.secure_channel(f"127.0.0.1:{self.grpc.port}", credentials, options)

    def revoke(self, *lists: str) -> None:
        self.crl.write_text("".join(lists))
        for door in (self.rest, self.grpc):
            door.call(door.tls.admission.look)


def code_of(channel: grpc.Channel, name: str) -> grpc.StatusCode:
    request = getattr(messages, f"{name}Request")()
    call = channel.unary_unary(f"/{service.NAME}/{name}", request_serializer=type(request).SerializeToString)
    try:
        call(request, timeout=support.PATIENCE_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Doors of a fleet in one tier, and of one in two."""
    with everyday.closing_all() as running:
        one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
        yield {
            "one tier": Doors(one, Signer.single(one), running),
            "two tiers": Doors(two, Signer.below(two)[1], running),
        }


@pytest.mark.parametrize("tiers", ["one tier", "two tiers"])
@pytest.mark.parametrize("profile", list(Profile))
def test_each_profile_may_do_what_the_contract_says_and_nothing_else(opened, tiers: str, profile: Profile) -> None:
    doors = opened[tiers]
    pair = doors.signer.issue(profile, host="pi-2", serial="00000000000000bb")
    assert doors.verbs(pair) == MAY[profile]
    assert doors.calls(pair) == MAY[profile] & set(CALLS)


def test_a_gateway_of_another_site_sees_nothing(opened) -> None:
    doors = opened["one tier"]
    assert doors.verbs(doors.signer.issue(Profile.GATEWAY, site="meadowside")) == set()


def test_even_the_devices_own_certificate_opens_nothing(opened) -> None:
    doors = opened["one tier"]
    own = doors.signer.issue(Profile.DEVICE, serial=SERIAL)
    assert (doors.verbs(own), doors.calls(own)) == (set(), set())


@pytest.mark.parametrize("profile", [Profile.OPERATOR, Profile.CLIENT])
def test_a_sites_ca_makes_neither_operators_nor_clients(tmp_path, running, profile: Profile) -> None:
    doors = Doors(tmp_path, Signer.below(tmp_path, site=support.SITE)[1], running)
    assert (doors.verbs(doors.signer.issue(profile)), doors.calls(doors.signer.issue(profile))) == (set(), set())


def bad_ones(signer: Signer, folder: Path) -> dict[str, support.Pair | None]:
    """What is no good certificate, all of them an operator's."""
    day = dt.timedelta(days=1)
    other = Signer.single(folder, "other-fleet")
    same_name = Signer.single(folder)  # another key under the fleet's name
    return {
        "none": None,
        "expired": signer.issue(Profile.OPERATOR, ends=-day),
        "not valid yet": signer.issue(Profile.OPERATOR, begins=day, ends=3 * day),
        "another fleet": other.issue(Profile.OPERATOR, fleet="other-fleet"),
        "another key": same_name.issue(Profile.OPERATOR),
        "a server's usage": signer.issue(Profile.OPERATOR, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "another fleet's name from our CA": signer.issue(Profile.OPERATOR, fleet="other-fleet"),
    }


@pytest.mark.parametrize("tiers", ["one tier", "two tiers"])
def test_what_is_no_good_certificate_gets_nothing(opened, tiers: str, tmp_path: Path) -> None:
    doors = opened[tiers]
    for what, pair in bad_ones(doors.signer, tmp_path).items():
        try:
            reached = doors.verbs(pair)
        except REFUSED:
            reached = set()
        assert reached == set(), what
        assert doors.calls(pair) == set(), what


def test_a_revoked_operator_can_do_nothing_on_a_call_or_connection_that_stands(opened) -> None:
    doors = opened["two tiers"]
    stolen, good = doors.signer.issue(Profile.OPERATOR), doors.signer.issue(Profile.OPERATOR)
    with doors.channel(stolen) as channel:
        assert code_of(channel, "ServerLive") is grpc.StatusCode.OK
        held = threading.Event()

        def requests():
            held.wait(support.PATIENCE_S)  # a stream on which nothing more is asked
            yield from ()

        stream = channel.stream_stream(
            f"/{service.NAME}/ModelStreamInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )(requests(), timeout=support.PATIENCE_S)
        admission = doors.grpc.tls.admission
        everyday.wait(lambda: doors.grpc.call(lambda: len(admission._here)) == 1)
        try:
            doors.revoke(doors.signer.crl(stolen.leaf))
            with pytest.raises(grpc.RpcError) as ended:
                list(stream)
            assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert code_of(channel, "ServerLive") is grpc.StatusCode.UNAUTHENTICATED
        finally:
            held.set()
    with pytest.raises(REFUSED):
        doors.verbs(stolen)
    assert doors.verbs(good) == MAY[Profile.OPERATOR]
    assert doors.calls(good) == set(CALLS)
