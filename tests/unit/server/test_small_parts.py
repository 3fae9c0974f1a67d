"""Parts that are a page each: configuration, sockets, systemd, restarts, repositories, statistics, access."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
import server_support as support

from hedgerow.device import hardware
from hedgerow.device.health import Serving
from hedgerow.device.notify import notify
from hedgerow.errors import MachineError, UsageError
from hedgerow.identity.profiles import Peer, Profile
from hedgerow.server import access, config, observe, recording, sockets, statistics, systemd
from hedgerow.server.config import Address
from hedgerow.server.errors import NotFound, ServingError
from hedgerow.server.metrics import Metrics
from hedgerow.server.observe import Observer
from hedgerow.server.recording import Recorder
from hedgerow.server.restarts import Restarts
from hedgerow.server.statistics import MAX_SAMPLES, WINDOW_S, Sample, Window, percentile
from hedgerow.server.telemetry.caller import Caller

REQUIRED = "host: h\nserial: s\nfleet: f\nsite: t\nmodel: m\n"

# ── configuration ───────────────────────────────────────────────────────────


def test_a_configuration_needs_five_keys(tmp_path) -> None:
    (tmp_path / "server.yml").write_text(REQUIRED)
    loaded = config.load(tmp_path / "server.yml")
    assert (str(loaded.http), loaded.https.port, loaded.limits.queue) == ("127.0.0.1:8000", 8443, 16)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "Expected `object`"),
        ("host: h\n", "missing required field `serial`"),
        (REQUIRED + "modle: x\n", "unknown field `modle`"),
        (REQUIRED + "limits: {queue: many}\n", r"Expected `int`, got `str` - at `\$\.limits\.queue`"),
        (REQUIRED + "http: {address: 10.0.0.1, port: 80}\n", "on loopback alone; 10.0.0.1 is not"),
        (REQUIRED + "http: {address: localhost, port: 80}\n", r"'localhost', not an IP address - at `\$\.http`"),
        (REQUIRED + "http: {address: 127.0.0.1, port: 65536}\n", r"<= 65535 - at `\$\.http\.port`"),
        (REQUIRED + "http: {address: 127.0.0.1, port: -1}\n", r">= 0 - at `\$\.http\.port`"),
        (REQUIRED + "https: {port: 70000}\n", r"<= 65535 - at `\$\.https\.port`"),
        (REQUIRED + "grpcs: {address: here}\n", r"'here', not an IP address - at `\$\.grpcs`"),
        (REQUIRED + "threads: 0\n", r">= 1 - at `\$\.threads`"),
        (REQUIRED + "limits: {queue: -1}\n", r">= 0 - at `\$\.limits\.queue`"),
        (REQUIRED + "limits: {generations: 0}\n", r">= 1 - at `\$\.limits\.generations`"),
        (REQUIRED + "limits: {body_bytes: 0}\n", r">= 1 - at `\$\.limits\.body_bytes`"),
        (REQUIRED + "limits: {answer_s: 0}\n", r"> 0\.0 - at `\$\.limits\.answer_s`"),
        (REQUIRED + "limits: {drain_s: -1}\n", r">= 0\.0 - at `\$\.limits\.drain_s`"),
        ("a: [", "is not valid"),
    ],
)
def test_what_a_configuration_may_not_say(tmp_path, text: str, says: str) -> None:
    (tmp_path / "server.yml").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        config.load(tmp_path / "server.yml")
    assert caught.value.where == str(tmp_path / "server.yml")


def test_a_configuration_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        config.load(tmp_path / "server.yml")


@pytest.mark.parametrize(
    "text, address", [("127.0.0.1:8000", Address("127.0.0.1", 8000)), ("[::1]:80", Address("::1", 80))]
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text
    assert address.is_loopback


@pytest.mark.parametrize(
    "text",
    ["8000", "localhost:80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1: 80", ""],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address and port"):
        Address.parse(text)


def test_credentials_are_systemds(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert config.credential("device.key") == tmp_path / "device.key"
    assert config.credential("/elsewhere/key") == Path("/elsewhere/key")


def test_what_a_reload_brings_comes_before_what_the_start_brought(tmp_path, monkeypatch) -> None:
    started, renewed = tmp_path / "started", tmp_path / "renewed"
    renewed.mkdir()
    (renewed / "device.key").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(started))
    monkeypatch.setenv(config.IDENTITY_VARIABLE, str(renewed))
    assert config.credential("device.key") == renewed / "device.key"
    assert config.credential("token") == started / "token", "others are systemd's"


# ── sockets ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_owner_of_a_port_is_found(family, host: str) -> None:
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        assert sockets.owner(port) == f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"
        with pytest.raises(MachineError, match=rf"port {port} is taken by .* \(process {os.getpid()}\)"):
            sockets.listen(Address(host, port))
    assert sockets.owner(port) is None


def test_an_owner_that_is_hidden_is_not_guessed(monkeypatch) -> None:
    monkeypatch.setattr(sockets, "owner", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"^port {port} is taken\n") as caught:
            sockets.listen(Address("127.0.0.1", port))
    assert caught.value.next_step == f"see who has it: sudo ss -ltnp 'sport = :{port}'"


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(MachineError, match="cannot listen: Cannot assign requested address"):
        sockets.listen(Address("192.0.2.1", 18_000))


def test_a_socket_that_was_left_behind_is_replaced(tmp_path) -> None:
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with sockets.listen_unix(path) as bound:
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(MachineError, match="another server has the control socket"):
            sockets.listen_unix(path)
        assert bound.getsockname() == str(path)


def test_a_socket_without_its_folder(tmp_path) -> None:
    with pytest.raises(MachineError, match="No such file"):
        sockets.listen_unix(tmp_path / "run" / "server.sock")


# ── systemd ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "environment, within",
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_signs_of_life_are_wanted(monkeypatch, environment, within) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_s() == within


def test_a_load_may_take_longer_than_a_sign_of_life(monkeypatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", told.append)
    patience = systemd.Patience()
    with patience.loading():
        with patience.loading():  # a second load while the first runs
            pass
        assert len(told) == 1
    assert told == ["WATCHDOG=1\nWATCHDOG_USEC=600000000", "WATCHDOG=1\nWATCHDOG_USEC=10000000"]


def test_nobody_is_asked_for_patience_who_watches_not(monkeypatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", told.append)
    with systemd.Patience().loading():
        pass
    assert told == []


def test_nobody_is_told_where_nobody_listens(monkeypatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_an_abstract_socket_is_told(monkeypatch) -> None:
    name = f"hedgerow-unit-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("READY=1")
        listener.settimeout(support.PATIENCE_S)
        assert listener.recv(20) == b"READY=1"


# ── restarts ────────────────────────────────────────────────────────────────


def test_only_ends_that_nobody_asked_for_count(tmp_path) -> None:
    counts = []
    for asked_for in (True, False, False, True, True):
        restarts = Restarts(tmp_path)
        restarts.begin()
        counts.append(restarts.count)
        if asked_for:
            restarts.end()
    assert counts == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("text", ["", "running", "running many", "running 1 2"])
def test_a_damaged_count_begins_anew(tmp_path, text: str) -> None:
    (tmp_path / "ends").write_text(text)
    restarts = Restarts(tmp_path)
    restarts.begin()
    assert restarts.count == 0


def test_without_a_folder_nothing_is_known(tmp_path) -> None:
    restarts = Restarts(tmp_path / "gone")
    restarts.begin()
    assert restarts.count is None
    restarts.end()


# ── statistics ──────────────────────────────────────────────────────────────


def test_percentiles_are_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert (percentile([3.0], 0.99), percentile([], 0.5)) == (3.0, None)


def test_figures_of_a_window() -> None:
    window = Window()
    window.add(Sample(at=0.0, duration_s=99.0))  # too old
    window.add(Sample(at=WINDOW_S, duration_s=0.1))
    window.add(Sample(at=WINDOW_S, duration_s=2.0, ttft_s=0.5, tokens=31, generation_s=1.5))
    window.add(Sample(at=WINDOW_S, duration_s=5.0, failed=True))
    assert window.serving(WINDOW_S + 1, queue=3, restarts=1) == Serving(
        window_s=WINDOW_S,
        requests=3,
        errors=1,
        p50_ms=100.0,
        p95_ms=2000.0,
        p99_ms=2000.0,
        ttft_p95_ms=500.0,
        tokens_per_s=20.0,
        queue=3,
        restarts=1,
    )
    assert Window().serving(0.0, queue=0, restarts=None) == Serving(window_s=WINDOW_S)


def test_a_window_holds_the_newest_in_the_memory_that_it_has_from_the_start() -> None:
    window = Window()
    tracemalloc.start()
    for number in range(MAX_SAMPLES + 2000):
        window.add(Sample(at=1.0, duration_s=number / 1000, failed=number < 3000))
    # What these lines and the window's took: other threads of this process may take some meanwhile.
    files = [tracemalloc.Filter(inclusive=True, filename_pattern=each) for each in (__file__, statistics.__file__)]
    grown = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(files).traces)
    tracemalloc.stop()
    found = window.serving(2.0, queue=0, restarts=None)
    assert (found.requests, found.errors, found.p50_ms, found.p99_ms) == (MAX_SAMPLES, 1000, 17499.0, 31709.0)
    assert grown < 10_000


# ── access ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/", "/v3", "/control/v1/switch", "/healthy", "/metricsx", "/v2/repository/index"])
def test_a_route_that_no_row_names_is_for_operators(path: str) -> None:
    def may(profile: Profile) -> bool:
        return access.allowed(Peer("f", profile, "x", "t"), path, fleet="f", site="t")

    assert [profile for profile in Profile if may(profile)] == [Profile.OPERATOR]


def test_other_fleets_and_other_sites_gateways_are_nobody() -> None:
    assert not access.allowed(None, "/health/live", fleet="f", site="t")
    assert not access.allowed(Peer("g", Profile.OPERATOR, "x"), "/health/live", fleet="f", site="t")
    gateway = Peer("f", Profile.GATEWAY, "x", "t")
    assert access.allowed(gateway, "/metrics", fleet="f", site="t")
    assert not access.allowed(gateway, "/metrics", fleet="f", site="elsewhere")


# ── what is observed of the accelerator ─────────────────────────────────────

HAT = {
    "node": "/dev/null", "library_version": "5.1.1", "firmware_version": None, "architecture": None, "mismatch": False,
    "error": "HAILO_DRIVER_OPERATION_FAILED(36)",
}  # fmt: skip


@pytest.mark.parametrize(
    "change, program, error",
    [
        ({}, "/usr/bin/hailortcli", HAT["error"]),
        ({"node": "/dev/hailo-of-nobody"}, "/usr/bin/hailortcli", None),
        ({"library_version": None, "error": "hailortcli is missing or does not answer"}, "/usr/bin/hailortcli", None),
        ({"library_version": None, "error": "hailortcli is missing"}, None, "hailortcli is missing"),
        ({"node": None, "error": "no driver has the device"}, "/usr/bin/hailortcli", "no driver has the device"),
    ],
)
def test_what_may_not_be_asked_is_unknown_and_not_wrong(tmp_path, monkeypatch, change, program, error) -> None:
    asked: list[bool] = []

    def read(*, with_hailortcli: bool, disk_paths=("/",)):
        asked.append(with_hailortcli)
        return {"hat": HAT | change}

    monkeypatch.setattr(hardware, "read", read)
    monkeypatch.setattr(observe.shutil, "which", lambda _: program)
    observer = Observer(None, host="h", serial="s", model="m", models_dir=tmp_path, activation_dir=tmp_path)
    for _ in range(2):
        assert observer._read_hardware()["hat"]["error"] == error
    assert asked == [True, False, False]


def test_a_pending_state_that_cannot_be_read_is_none(tmp_path) -> None:
    observer = Observer(None, host="h", serial="s", model="m", models_dir=tmp_path, activation_dir=tmp_path)
    assert observer._confirm_deadline() is None
    for text in ("", "{", "{}", '{"deadline": "soon"}'):
        (tmp_path / "pending.json").write_text(text)
        assert observer._confirm_deadline() is None
    (tmp_path / "pending.json").write_text('{"deadline": "2030-01-01T01:00:00+01:00", "more": 1}')
    assert observer._confirm_deadline() == datetime(2030, 1, 1, tzinfo=UTC)


# ── counting ────────────────────────────────────────────────────────────────


def test_tensor_requests_are_counted_together_before_anybody_reads_and_soon() -> None:
    labels = {"model": "m", "protocol": "oip", "prompt_size": "tensors"}
    metrics, window, told = Metrics(lambda: 0), Window(), []
    recorder = Recorder(metrics, window)
    recorder.sinks.append(lambda request: told.append((request.version, request.code, request.ended)))

    def one(number: int, *, rows: int = 1, error: Exception | None = None) -> None:
        with contextlib.suppress(ServingError), recorder.request("m", "oip") as record:
            record.version, record.progress.rows = str(number), rows
            if error is not None:
                raise error

    def heard() -> list[str]:
        return [version for version, _, _ in told]

    async def work() -> None:
        for number in range(recording._MOST - 1):
            one(number)
        assert told == []
        ended_before = time.monotonic()
        # Whoever reads finds all of them, each as it ended.
        assert metrics.registry.get_sample_value("hedgerow_server_request_duration_seconds_count", labels) == 31
        assert heard() == [str(number) for number in range(recording._MOST - 1)]
        assert all(ended <= ended_before for _, _, ended in told)
        # A full batch, an error, a text and a refusal wait for nobody, and overtake nobody.
        told.clear()
        for number in range(recording._MOST):
            one(number)
        assert len(told) == recording._MOST
        for what in ({"error": NotFound("no")}, {"rows": 0}):
            told.clear()
            one(1)
            one(2, **what)
            assert heard() == ["1", "2"]
        told.clear()
        one(1)
        recorder.refused(Caller("id"), "oip", 403)
        assert [code for _, code, _ in told] == [200, 403]
        # And what nobody reads is told of soon.
        told.clear()
        came = asyncio.Event()
        recorder.sinks.append(lambda _: came.set())
        one(1)
        assert told == []
        await asyncio.wait_for(came.wait(), support.PATIENCE_S)
        assert heard() == ["1"]

    asyncio.run(work())
    told.clear()
    one(1)  # without a loop that could settle it later
    assert heard() == ["1"]
    assert window.serving(time.monotonic(), queue=0, restarts=None).requests == 70
