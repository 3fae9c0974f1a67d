"""``hedgerow serve`` as a process: signals, sockets, certificates, what systemd and hedgerow-device see of it."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import server_support as support
from cryptography import x509

from hedgerow.device import health
from hedgerow.fleet.reported import decode_report
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import CLIENT_PROFILES, DeviceNames, Profile

ADD = "/v2/models/assistant/infer"
PROFILES = [*CLIENT_PROFILES, Profile.DEVICE, Profile.GATEWAY]
ROUTES = ["/health/live", "/health/ready", "/health/report", "/metrics", "/v2", "/v2/health/ready", "/v1/models",
          "/v2/models/assistant", "/v2/repository/index", "/openapi.json", "/control/v1/status",
          "/anything"]  # fmt: skip
OBSERVE = {"/health/live", "/health/ready", "/health/report", "/metrics", "/v2/health/ready", "/openapi.json"}
INFER = {"/health/live", "/health/ready", "/v2", "/v2/health/ready", "/v1/models", "/v2/models/assistant",
         "/openapi.json"}  # fmt: skip
MAY = {
    Profile.CLIENT: INFER,
    Profile.MONITOR: OBSERVE,
    Profile.GATEWAY: OBSERVE,
    Profile.OPERATOR: set(ROUTES),
    Profile.PUBLISHER: set(),
    Profile.DEVICE: set(),
}


def row(value: float) -> dict[str, object]:
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [value, value]}]}


@pytest.fixture(scope="module")
def device(tmp_path_factory, unit_ca):
    """A device that serves 1.0.0 (adds 1), has 2.0.0 (adds 2), 3.0.0 (wrong golden) and 4.0.0 (broken)."""
    folder = tmp_path_factory.mktemp("device")
    home = folder / "models" / "assistant"
    support.write_bundle(home / "1.0.0", "assistant", "1.0.0", 1.0)
    support.write_bundle(home / "2.0.0", "assistant", "2.0.0", 2.0)
    support.write_bundle(home / "3.0.0", "assistant", "3.0.0", 3.0, answers=99.0)
    support.write_bundle(home / "4.0.0", "assistant", "4.0.0", 4.0)
    (home / "4.0.0" / "model.onnx").write_bytes(b"junk")
    device = support.start_device(folder, unit_ca)
    try:
        device.process.until(lambda: support.answers(device.http) == 200, "ready")
        yield device
    finally:
        device.process.close()


@pytest.fixture
def own_device(tmp_path, unit_ca, running):
    """``own_device(version: addend, …)`` → a device of the test's own, not waited for."""

    def start(environment=None, current="1.0.0", **settings) -> support.Device:
        support.write_bundle(tmp_path / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
        device = support.start_device(tmp_path, unit_ca, environment=environment, current=current, **settings)
        running.append(device.process)
        return device

    return start


def context_of(ca: FleetCA, profile: Profile, folder: Path) -> ssl.SSLContext:
    """A caller with a certificate of the fleet."""
    context = ssl.create_default_context(cafile=ca.folder / "ca.crt")
    if profile in CLIENT_PROFILES:
        files = ca.issue_client(profile, f"unit-{profile.value}")
        context.load_cert_chain(files.certificate, files.key)
    else:
        folder.mkdir(exist_ok=True)
        support.write_device_certificate(ca, folder)
        if profile is Profile.GATEWAY:
            request = x509.CertificateSigningRequestBuilder()
            key = support.ec.generate_private_key(support.ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(support.NameOID.COMMON_NAME, support.SERIAL)])
            pem = request.subject_name(name).sign(key, support.hashes.SHA256())
            names = DeviceNames(fleet=support.FLEET, site=support.SITE, host="gw-1", serial=support.SERIAL)
            text = pem.public_bytes(support.serialization.Encoding.PEM).decode()
            (folder / "device.crt").write_text(ca.sign_csr(text, profile, names))
            (folder / "device.key").write_bytes(
                key.private_bytes(
                    support.serialization.Encoding.PEM,
                    support.serialization.PrivateFormat.PKCS8,
                    support.serialization.NoEncryption(),
                )
            )
        context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return context


# ── who may what ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_reaches_its_routes_and_no_other(device, unit_ca, profile: Profile, tmp_path) -> None:
    context = context_of(unit_ca, profile, tmp_path / "caller")
    reached = {route for route in ROUTES if support.ask(support.Secure(device.https, context), route)[0] != 403}
    assert reached == MAY[profile]


def test_control_is_not_on_the_network_even_for_operators(device, unit_ca, tmp_path) -> None:
    context = context_of(unit_ca, Profile.OPERATOR, tmp_path)
    assert support.ask(support.Secure(device.https, context), "/control/v1/status")[0] == 404
    assert device.plain("/control/v1/status")[0] == 404


def test_a_client_may_infer_over_mutual_tls(device, unit_ca, tmp_path) -> None:
    context = context_of(unit_ca, Profile.CLIENT, tmp_path)
    status, answer = support.ask(support.Secure(device.https, context), ADD, row(1.0))
    assert (status, answer["outputs"][0]["shape"]) == (200, [1, 2])


def test_strangers_get_no_answer_at_all(device, unit_ca, tmp_path) -> None:
    other = FleetCA.init(tmp_path / "other", "other-fleet")[0]
    files = other.issue_client(Profile.OPERATOR, "stranger")
    trusting = ssl.create_default_context(cafile=unit_ca.folder / "ca.crt")
    for load in (False, True):
        if load:
            trusting.load_cert_chain(files.certificate, files.key)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            support.ask(support.Secure(device.https, trusting), "/health/live")
    old = ssl.create_default_context(cafile=unit_ca.folder / "ca.crt")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        support.ask(support.Secure(device.https, old), "/health/live")


# ── the control socket ──────────────────────────────────────────────────────


def test_versions_are_prepared_switched_and_discarded(device) -> None:
    _, before = device.control("status")
    assert (before["serving"]["version"], before["prepared"]) == ("1.0.0", None)
    assert len(before["serving"]["sha256"]) == 64
    status, done = device.control("prepare", "2.0.0")
    assert (status, done["golden"]) == (200, {"passed": 1, "failed": 0})
    assert device.control("status")[1]["prepared"]["version"] == "2.0.0"
    assert device.plain(ADD, row(1.0))[1]["outputs"][0]["data"] == [2.0, 2.0]
    status, switched = device.control("switch", "2.0.0")
    assert (switched["serving"]["version"], switched["previous"]["version"]) == ("2.0.0", "1.0.0")
    assert device.plain(ADD, row(1.0))[1]["outputs"][0]["data"] == [3.0, 3.0]
    assert device.control("switch", "2.0.0")[1]["previous"] is None  # asked again, nothing changes
    assert device.control("prepare", "1.0.0")[0] == 200
    assert device.control("discard", "1.0.0")[0] == 200
    assert device.control("status")[1]["prepared"] is None
    assert device.control("prepare", "1.0.0")[0] == device.control("switch", "1.0.0")[0] == 200


@pytest.mark.parametrize(
    "version, name, code",
    [
        ("3.0.0", "assistant", "golden_failed"),
        ("4.0.0", "assistant", "load_failed"),
        ("9.0.0", "assistant", "not_found"),
        ("../assistant/1.0.0", "assistant", "not_found"),
        ("..", "assistant", "not_found"),
        ("1.0.0", "another", "other_model"),
    ],
)
def test_what_is_not_fit_changes_nothing(device, version: str, name: str, code: str) -> None:
    status, answer = device.control("prepare", version, name)
    assert (status, answer["error"]["code"]) == (422, code)
    assert answer["error"]["text"]
    assert support.answers(device.http) == 200
    assert device.control("status")[1]["prepared"] is None
    assert device.plain(ADD, row(1.0))[1]["model_version"] == "1.0.0"
    assert device.control("switch", version, name)[0] == 400


def test_a_swap_under_load_loses_no_request_and_answers_none_wrongly(device) -> None:
    """Each answer must be the one of the version that it names, and every request must have one."""
    wrong: list[object] = []
    versions: set[str] = set()
    count = itertools.count()
    stop = threading.Event()

    def hammer(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", device.http, timeout=support.PATIENCE_S)
        try:
            while not stop.is_set():
                value = float(number * 1000 + next(count) % 1000)
                connection.request("POST", ADD, json.dumps(row(value)))
                response = connection.getresponse()
                answer = json.loads(response.read())
                version = answer.get("model_version")
                versions.add(str(version))
                wanted = [value + (1.0 if version == "1.0.0" else 2.0)] * 2
                if response.status != 200 or answer["outputs"][0]["data"] != wanted:
                    wrong.append((response.status, answer))
        except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
            wrong.append(error)
        finally:
            connection.close()

    callers = [threading.Thread(target=hammer, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    try:
        for version in ["2.0.0", "1.0.0"] * 5:
            before = next(count)
            assert device.control("prepare", version)[0] == device.control("switch", version)[0] == 200
            support.wait(lambda before=before: next(count) > before + 50)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert wrong == []
    assert versions == {"1.0.0", "2.0.0"}


# ── health ──────────────────────────────────────────────────────────────────


def test_the_report_is_what_its_schema_and_the_controller_say(device) -> None:
    status, report = device.plain("/health/report")
    assert status == 200
    schema = json.loads((Path(health.__file__).parent / "health.schema.json").read_text())
    jsonschema.validate(report, schema)
    seen = decode_report(json.dumps(report).encode(), where="pi-1")
    assert (seen.reference, report["serial"], report["serving"]["restarts"]) == ("assistant@1.0.0", support.SERIAL, 0)
    assert "model_failed" not in {reason["code"] for reason in report["reasons"]}
    assert support.ask(support.UnixConnection(device.socket), "/health/report")[1]["host"] == support.HOST


def test_a_pending_confirmation_and_the_previous_version_are_reported(device) -> None:
    state = device.folder / "activation"
    state.mkdir()
    deadline = datetime(2030, 1, 1, tzinfo=UTC)
    (state / "pending.json").write_text(json.dumps({"name": "assistant", "deadline": deadline.isoformat()}))
    (device.models / "assistant" / "previous").symlink_to("2.0.0")
    try:
        report = device.plain("/health/report")[1]
    finally:
        (state / "pending.json").unlink()
        (device.models / "assistant" / "previous").unlink()
    assert (report["pending"]["confirm_deadline"], report["model"]["previous"]) == ("2030-01-01T00:00:00Z", "2.0.0")
    assert "confirm_pending" in {reason["code"] for reason in report["reasons"]}


@pytest.mark.parametrize("current, code", [("4.0.0", "model_failed"), (None, "no_model")])
def test_a_device_without_a_model_stays_up_and_says_why(own_device, tmp_path, current, code: str) -> None:
    home = tmp_path / "models" / "assistant"
    support.write_bundle(home / "4.0.0", "assistant", "4.0.0", 4.0)
    (home / "4.0.0" / "model.onnx").write_bytes(b"junk")
    device = own_device(current=current)
    report = device.process.until(
        lambda: support.answers(device.http) and device.plain("/health/report")[1], "reported"
    )
    device.process.until(lambda: '"level":"warning"' in device.process.log, "warned")
    report = device.plain("/health/report")[1]
    assert report["status"] == "failing"
    reason = next(reason for reason in report["reasons"] if reason["code"] == code)
    assert current is None or "INVALID_PROTOBUF" in reason["text"]
    assert support.answers(device.http, "/health/live") == 200
    assert support.answers(device.http) == 503
    # Callers are not wrong, and may ask another host; commands are told how things are.
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}]}
    assert device.plain("/v2/models/assistant/infer", asked)[0] == 503
    status, said = device.control("status")
    assert (status, said["serving"]) == (200, None)
    # And it comes back without a restart.
    assert device.control("prepare", "1.0.0")[0] == device.control("switch", "1.0.0")[0] == 200
    assert support.answers(device.http) == 200
    assert device.plain("/health/report")[1]["model"]["version"] == "1.0.0"


# ── signals and systemd ─────────────────────────────────────────────────────


@pytest.fixture
def text_device(tmp_path, unit_ca, tiny_text, running):
    """A device that talks."""
    home = tmp_path / "models" / "assistant"
    home.mkdir(parents=True)
    (home / "1.0.0").symlink_to(tiny_text["all"])
    device = support.start_device(tmp_path, unit_ca)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    return device


def test_a_stream_that_runs_is_finished_before_the_process_ends(text_device) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", text_device.http, timeout=support.PATIENCE_S)
    asked = {
        "model": "assistant",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 90,
        "stream": True,
        "temperature": 0,
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(asked))
    response = connection.getresponse()
    response.readline()
    text_device.process.signal(signal.SIGTERM)
    rest = response.read()
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert b'"finish_reason":"' in rest
    connection.close()
    assert text_device.process.wait() == 0
    assert not text_device.socket.exists()
    assert not support.tells_of_an_exception(text_device.process.log)


def test_a_renewed_certificate_is_used_without_dropping_a_connection(own_device, unit_ca, tmp_path) -> None:
    device = own_device()
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    context = context_of(unit_ca, Profile.MONITOR, tmp_path / "caller")

    def shown(connection: support.Secure) -> int:
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        return x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True)).serial_number

    old = support.Secure(device.https, context)
    first = shown(old)
    (tmp_path / "credentials" / "device.key").write_text("half written")
    device.process.signal(signal.SIGHUP)
    device.process.until(lambda: "cannot be used" in device.process.log, "refused the half-written key")
    with support.contextlib.closing(support.Secure(device.https, context)) as still:
        assert shown(still) == first
    support.write_device_certificate(unit_ca, tmp_path / "credentials", days=2)
    device.process.signal(signal.SIGHUP)
    device.process.until(lambda: "certificate read again" in device.process.log, "reloaded")
    with support.contextlib.closing(support.Secure(device.https, context)) as fresh:
        assert shown(fresh) != first
    assert shown(old) == first
    old.close()
    codes = {reason["code"] for reason in device.plain("/health/report")[1]["reasons"]}
    assert "certificate_ends_soon" in codes


def test_systemd_hears_of_readiness_life_and_the_end(own_device, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(support.PATIENCE_S)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        device = own_device(environment=environment)
        heard = [systemd.recv(100).decode()]
        while heard.count("WATCHDOG=1") < 3 or "READY=1" not in heard:
            heard.append(systemd.recv(100).decode())
        assert support.answers(device.http) == 200
        device.process.signal(signal.SIGTERM)
        while heard[-1] != "STOPPING=1":
            heard.append(systemd.recv(100).decode())
    assert device.process.wait() == 0
    assert heard.count("READY=1") == 1


def test_ends_that_nobody_asked_for_are_counted(own_device, unit_ca, tmp_path, running) -> None:
    device = own_device()
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        device.process.until(lambda d=device: support.answers(d.http) == 200, "ready")
        restarts = device.plain("/health/report")[1]["serving"]["restarts"]
        assert restarts == (0, 1, 1)[number]
        device.process.signal(end)
        device.process.wait()
        device = support.start_device(tmp_path, unit_ca)
        running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    assert device.plain("/health/report")[1]["serving"]["restarts"] == 2


# ── what keeps it from starting ─────────────────────────────────────────────


def fails(tmp_path, running, *arguments: str) -> tuple[int, str]:
    process = support.Process(tmp_path, *arguments)
    running.append(process)
    code = process.wait()
    assert not support.tells_of_an_exception(process.log)
    return code, process.log


@pytest.mark.parametrize("option, other", [("--http", "--grpc"), ("--grpc", "--http")])
def test_a_port_that_is_taken_says_by_whom(tmp_path, running, option: str, other: str) -> None:
    support.write_add(tmp_path / "add" / "1", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = f"127.0.0.1:{support.free_port()}"
        code, log = fails(tmp_path, running, "--repository", str(tmp_path), option, f"127.0.0.1:{port}", other, free)
    assert code == 1
    me = Path("/proc/self/comm").read_text().strip()
    assert f"port {port} is taken by {me} (process {support.os.getpid()})" in log


@pytest.mark.parametrize("option, protocol", [("--http", "HTTP"), ("--grpc", "gRPC")])
@pytest.mark.parametrize("address", ["0.0.0.0:18999", "[::]:18999", "192.0.2.1:18999"])
def test_what_is_plain_stays_on_loopback(tmp_path, running, address: str, option: str, protocol: str) -> None:
    support.write_add(tmp_path / "add" / "1", 1.0)
    code, log = fails(tmp_path, running, "--repository", str(tmp_path), option, address)
    assert (code, f"plain {protocol} has no authentication" in log) == (2, True)


def test_a_device_may_not_be_configured_to_serve_plainly_outside(tmp_path, running) -> None:
    config = {
        "host": "h",
        "serial": "s",
        "fleet": "f",
        "site": "s",
        "model": "m",
        "http": {"address": "0.0.0.0", "port": 1},
    }
    (tmp_path / "server.yml").write_text(json.dumps(config))
    code, log = fails(tmp_path, running, "--config", str(tmp_path / "server.yml"))
    assert (code, "on loopback alone" in log) == (2, True)


def test_a_workstations_model_that_fails_is_said_plainly(tmp_path, running) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"junk")
    port = support.free_port()
    code, log = fails(tmp_path, running, "--repository", str(tmp_path), "--http", f"127.0.0.1:{port}", "--grpc", "none")
    assert code == 1
    assert "m cannot be served: 1: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF" in log
    assert f"where: {tmp_path}/m/1" in log


def test_a_folder_without_models(tmp_path, running) -> None:
    code, log = fails(tmp_path, running, "--repository", str(tmp_path))
    assert (code, "no model here" in log) == (1, True)


def test_two_servers_do_not_share_a_control_socket(device, tmp_path, running) -> None:
    config = json.loads((device.folder / "server.yml").read_text()) | dict.fromkeys(("http", "https", "grpc", "grpcs"))
    (tmp_path / "server.yml").write_text(json.dumps(config))
    code, log = fails(tmp_path, running, "--config", str(tmp_path / "server.yml"))
    assert (code, "another server has the control socket" in log) == (1, True)
    assert device.control("status")[0] == 200
    assert (device.socket.parent / "ends").read_text() == "running 0\n"


def test_a_certificate_that_is_missing(tmp_path, running) -> None:
    config = {"host": "h", "serial": "s", "fleet": "f", "site": "s", "model": "m"}
    (tmp_path / "server.yml").write_text(json.dumps(config))
    code, log = fails(tmp_path, running, "--config", str(tmp_path / "server.yml"))
    assert (code, "$CREDENTIALS_DIRECTORY is not set" in log) == (2, True)
