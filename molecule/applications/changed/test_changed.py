"""An application's life under a real systemd: activated, fenced in, gone back from, counted, started at boot."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest
from hedgerow.registry.manifest import Port

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
UNIT = "hedgerow-application-kiosk.service"
ANSWER = "curl --silent --fail --max-time 5 http://127.0.0.1:8090/"
OWN_UNIT = """[Unit]
Description=A kiosk

[Service]
ExecStart=/run/application/serve {version}
DynamicUser=yes
NoNewPrivileges=yes
"""
# Answers what it is and what it may not do. Each attempt answers the name of its errno, or "allowed".
PROGRAM = r"""#!/usr/bin/python3
import errno, http.server, json, os, socket, subprocess, sys

def attempt(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return "allowed"

def write(path):
    with open(path, "ab"):
        pass

def connect(path):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)

def look():
    return {
        "version": sys.argv[1],
        "uid": os.getuid(),
        "write its files": attempt(lambda: write("/run/application/serve")),
        "write /etc": attempt(lambda: write("/etc/probe")),
        "write /var/lib": attempt(lambda: write("/var/lib/probe")),
        "write its own place": attempt(lambda: write(os.environ["RUNTIME_DIRECTORY"] + "/probe")),
        "read the identity": attempt(lambda: os.listdir("/var/lib/hedgerow/identity")),
        "read models": attempt(lambda: os.listdir("/var/lib/hedgerow/models")),
        "read the configuration": attempt(lambda: open("/etc/hedgerow/device.yml").close()),
        "ask the switch": attempt(lambda: connect("/run/hedgerow-applications/switch.sock")),
        "run what it wrote": attempt(run_written),
        "ask the server": attempt(lambda: socket.create_connection(("127.0.0.1", 8000), 2).close()),
    }

def run_written():
    path = os.environ["RUNTIME_DIRECTORY"] + "/program"
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(path, 0o755)
    subprocess.run([path], check=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps(look()).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

http.server.HTTPServer(("127.0.0.1", 8090), Handler).serve_forever()
"""


@pytest.fixture
def kiosk(pi, tmp_path):
    """The Pi that runs it, and a way to have a version in its store without a registry."""
    if not pi.var("applications"):
        pytest.skip("the inventory names none for it")

    def put(version: str, program: str = PROGRAM) -> str:
        folder = tmp_path / version
        folder.mkdir()
        (folder / "kiosk.service").write_text(OWN_UNIT.format(version=version))
        (folder / "serve").write_text(program)
        (folder / "serve").chmod(0o755)
        request = ApplicationRequest(folder, Description("kiosk", version, "MIT"), (Port(8090),), memory_mb=64)
        bundle = pack_application.pack(request, cache=tmp_path / "packed")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(bundle, arcname=version)
        text = base64.b64encode(packed.getvalue()).decode()
        home = "/var/lib/hedgerow/applications/kiosk"
        pi.root(
            f"mkdir -p {home} && rm -rf {home}/{version} && echo {text} | base64 -d | tar -xz -C {home} --no-same-owner"
        )
        return f"kiosk@{version}"

    yield put
    pi.as_root(f"{DEVICE} revert; {DEVICE} revert --kind application --name kiosk")


def activate(pi, change: str, *words: str):
    return pi.as_root(f"{DEVICE} activate {change} --json {' '.join(words)}")


def seen(pi) -> dict:
    found = json.loads(pi.root("cat /run/hedgerow-applications/state.json"))["applications"]
    return next(each for each in found if each["name"] == "kiosk")


def answers(pi) -> dict:
    return json.loads(pi.root(ANSWER))


def version(pi) -> str | None:
    """Of what answers; None: nobody does, for it is being started."""
    done = pi.run(ANSWER)
    return json.loads(done.stdout)["version"] if done.rc == 0 else None


def wait(condition, *, within_s: float = 60.0):
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.5)
    return value


def test_it_runs_fenced_in(pi, kiosk):
    done = activate(pi, kiosk("1.0.0"))
    assert done.rc == 0, done.stderr
    pi.root(f"{DEVICE} confirm kiosk@1.0.0")
    told = answers(pi)
    assert (told["version"], told["ask the server"] in {"allowed", "ECONNREFUSED"}) == ("1.0.0", True)
    assert told["uid"] >= 61184, "no user that systemd made up"
    assert told["write its own place"] == "allowed"
    for attempt in (
        "write its files", "write /etc", "write /var/lib", "read the identity", "read models",
        "read the configuration", "ask the switch", "run what it wrote",
    ):  # fmt: skip
        assert told[attempt] in {"EACCES", "EPERM", "EROFS", "ENOENT", "ENXIO", "ECONNREFUSED"}, (
            attempt,
            told[attempt],
        )
    shown = pi.root(f"systemctl show -p MemoryMax -p Slice -p NoNewPrivileges {UNIT}")
    assert shown.split() == ["Slice=hedgerow-applications.slice", "MemoryMax=67108864", "NoNewPrivileges=yes"]
    pi.root(f"systemd-analyze security --threshold=25 {UNIT}")
    assert "192.168.30.0/24" in pi.root(f"systemctl cat {UNIT}")


def test_the_report_tells_it_and_counts_its_restarts(pi, kiosk):
    assert activate(pi, kiosk("1.0.0")).rc == 0
    pi.root(f"{DEVICE} confirm kiosk@1.0.0")
    assert (seen(pi)["version"], seen(pi)["active"], seen(pi)["restarts"], seen(pi)["silent"]) == ("1.0.0", True, 0, [])
    pi.root(f"systemctl kill -s KILL {UNIT}")
    wait(lambda: seen(pi)["restarts"] == 1 and seen(pi)["active"])
    report = json.loads(pi.as_root(f"{DEVICE} report --json").stdout)
    assert [(each["name"], each["version"], each["restarts"]) for each in report["applications"]] == [
        ("kiosk", "1.0.0", 1)
    ]


def test_one_that_does_not_run_is_gone_back_from(pi, kiosk):
    assert activate(pi, kiosk("1.0.0")).rc == 0
    pi.root(f"{DEVICE} confirm kiosk@1.0.0")
    failed = activate(pi, kiosk("1.1.0", "#!/bin/sh\nexit 3\n"))
    assert failed.rc == 1
    assert "did not start" in failed.stderr
    assert answers(pi)["version"] == "1.0.0"
    assert pi.root("readlink /opt/hedgerow/applications/kiosk/current") == "1.0.0\n"


def test_one_that_nobody_confirms_goes_by_itself(pi, kiosk):
    assert activate(pi, kiosk("1.0.0")).rc == 0
    pi.root(f"{DEVICE} confirm kiosk@1.0.0")
    done = activate(pi, kiosk("1.2.0"), "--confirm-within", "5")
    assert done.rc == 0, done.stderr
    assert answers(pi)["version"] == "1.2.0"
    wait(lambda: pi.root("readlink /opt/hedgerow/applications/kiosk/current") == "1.0.0\n")
    wait(lambda: version(pi) == "1.0.0")


def test_a_boot_starts_it(pi, kiosk):
    assert activate(pi, kiosk("1.0.0")).rc == 0
    pi.root(f"{DEVICE} confirm kiosk@1.0.0")
    pi.root(f"systemctl stop {UNIT} && systemctl daemon-reload && systemctl start multi-user.target")
    wait(lambda: version(pi) == "1.0.0")
    assert Path(pi.root(f"readlink -f /etc/systemd/system/{UNIT}").strip()).parent.name == "1.0.0"
