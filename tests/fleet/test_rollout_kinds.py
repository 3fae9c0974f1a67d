"""Releases that are no models: configuration, runtime and applications, by the same engine, gate and way back.

A host is out of service while it restarts: its callers are told so (503) or find nobody, and a gateway would ask
another host. What must not happen is that a question which was taken is lost, or answered by another model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import oci_answering
import pytest
import rollout_fleet as fleets

from hedgerow import paths
from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest
from hedgerow.registry.manifest import Port

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.usefixtures("sound")]

ROOT = Path(__file__).parents[2]
OUT_OF_SERVICE = re.compile(r"HTTP 503|refused|Server disconnected without sending a response", re.IGNORECASE)
FAST = {"waves": [1, 7], "soak": {"passes": 2, "interval_s": 0.5, "deadline_s": 90}}


def values(change: str, server: dict[str, Any] | None = None, **policy: Any) -> list[str]:
    said = {"change": change, "rollout_policy": fleets.POLICY | FAST | policy}
    return ["-e", json.dumps(said | ({} if server is None else {"inference_runtime_server": server}))]


def versions(woods, key: str) -> dict[str, str]:
    """What each server says that it was started with."""
    found = {}
    for host in woods.pis:
        with woods.client(host) as client:
            found[host] = getattr(client.report(), key)
    return found


def told(callers: fleets.Callers) -> None:
    """Whoever got no answer was told that the host is out of service, or found nobody there."""
    assert [line for line in callers.failed if not OUT_OF_SERVICE.search(line)] == []
    assert set(callers.answered) == set(callers.hosts)
    assert all(len(numbers) == 1 for numbers in callers.numbers.values()), "another model answered"


def test_a_configuration_reaches_all_and_is_the_role_s_own(woods) -> None:
    before, served = versions(woods, "configuration"), woods.serves()
    same = woods.controller.play("rollout.yml", *values("configuration"))
    assert same.returncode == 0, same.stdout + same.stderr
    assert set(woods.outcomes().values()) == {"already"}, "the engine renders another text than the role"
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.controller.play("rollout.yml", *values("configuration", {"limits": {"queue": 12}}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(woods.outcomes().values()) == {"confirmed"}
    after = versions(woods, "configuration")
    assert all(after[host] not in {before[host], None} for host in woods.pis)
    assert woods.serves() == served
    told(callers)
    back = woods.hedgerow("rollout", "rollback", "--reason", "a test")
    assert back.returncode == 0, back.stdout + back.stderr
    assert versions(woods, "configuration") == before


@pytest.mark.parametrize(
    "server",
    [{"limits": {"body_bytes": 8}}, {"http": {"address": "127.0.0.1", "port": 22}}],
    ids=["answers nobody", "does not start"],
)
def test_a_bad_configuration_stops_at_the_canary_and_is_taken_back(woods, server: dict[str, Any]) -> None:
    before = versions(woods, "configuration")
    done = woods.controller.play("rollout.yml", *values("configuration", server))
    assert done.returncode != 0
    assert versions(woods, "configuration") == before
    outcomes = [outcome for outcome in woods.outcomes().values() if outcome is not None]
    assert outcomes == ["reverted"], outcomes


def test_what_the_server_would_refuse_is_refused_before_a_host_is_touched(woods) -> None:
    done = woods.controller.play("rollout.yml", *values("configuration", {"treads": 2}))
    assert done.returncode != 0
    assert "treads" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def another_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout with one more line of code: another runtime."""
    copy = tmp_path_factory.mktemp("tree") / "hedgerow"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    with (copy / "src/hedgerow/__init__.py").open("a") as file:
        file.write("# another runtime, for a test\n")
    return copy


def play(woods, tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``rollout.yml`` of a tree, with this controller's keys and journals."""
    program = shutil.which("ansible-playbook")
    assert program is not None
    line = [program, "-i", str(Path(woods.inventory.path).resolve()), "playbooks/rollout.yml", *arguments]
    environment = os.environ | {
        "HEDGEROW_VAR": str(paths.var_dir()),
        "HEDGEROW_ROOT": str(tree),
        "ANSIBLE_CONFIG": str(tree / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "0",
    }
    return subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=1200)


def test_a_runtime_reaches_all_and_goes_back(woods, another_tree: Path) -> None:
    before, served = versions(woods, "runtime"), woods.serves()
    with fleets.Callers(woods, woods.pis) as callers:
        done = play(woods, another_tree, *values("runtime"))
    assert done.returncode == 0, done.stdout + done.stderr
    after = versions(woods, "runtime")
    assert set(woods.outcomes().values()) == {"confirmed"}
    assert len(set(after.values())) == 1
    assert set(after.values()).isdisjoint(before.values())
    assert woods.serves() == served
    told(callers)
    for host in woods.pis:
        links = woods.on(host, "cd /opt/hedgerow/runtime && readlink current confirmed previous").split()
        assert links == [after[host], after[host], before[host]]
    back = woods.hedgerow("rollout", "rollback", "--reason", "a test")
    assert back.returncode == 0, back.stdout + back.stderr
    assert versions(woods, "runtime") == before
    assert {woods.on(host, "readlink /opt/hedgerow/runtime/confirmed").strip() for host in woods.pis} == set(
        before.values()
    )


def test_without_a_controller_an_unconfirmed_runtime_goes_back_even_if_it_starts_nothing(
    woods, another_tree: Path, wait
) -> None:
    """Its own program and its server are broken after the activation: the runtime before takes it back."""
    pi = woods.pis[-1]
    before = versions(woods, "runtime")[pi]
    # The test before took this very runtime back, and what was taken back waits out its cooldown.
    policy = fleets.POLICY | {"cooldown_s": 0}
    only = {"change": "runtime", "stage_ahead": "only", "rollout_policy": policy}
    done = play(woods, another_tree, "-e", json.dumps(only), "--limit", pi)
    assert done.returncode == 0, done.stdout + done.stderr
    staged = woods.on(pi, "ls /opt/hedgerow/runtime").split()
    new = next(each for each in staged if each not in {before, "current", "previous", "confirmed"})
    device = "/opt/hedgerow/runtime/confirmed/bin/hedgerow-device"
    woods.on(pi, f"{device} activate runtime:{new} --confirm-within 40")
    assert versions(woods, "runtime")[pi] == new
    woods.on(pi, f"cd /opt/hedgerow/runtime/{new}/bin && chmod -x hedgerow hedgerow-device")
    woods.on(pi, "systemctl kill -s KILL hedgerow-server")
    wait(lambda: woods.on(pi, "readlink /opt/hedgerow/runtime/current").strip() == before)
    wait(lambda: woods.served_by(pi) is not None)
    assert versions(woods, "runtime")[pi] == before
    last = [event for event in woods.events(pi) if event["event"] == "reverted"][-1]
    assert last["model"] == f"runtime:{new}"
    woods.on(pi, f"rm -r /opt/hedgerow/runtime/{new}")
    woods.hedgerow("rollout", "rollback", "--reason", "a test")


# -- applications ------------------------------------------------------------------

KIOSK_UNIT = """[Service]
ExecStart=/run/application/serve {version}
DynamicUser=yes
NoNewPrivileges=yes
"""
KIOSK = """#!/usr/bin/python3
import http.server, sys, threading, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())

if {dies_after_s}:
    threading.Timer({dies_after_s}, os._exit, (3,)).start()
http.server.HTTPServer(("127.0.0.1", 8090), Handler).serve_forever()
"""


def publish_kiosk(woods, folder: Path, version: str, *, dies_after_s: float = 0) -> str:
    """Pack and publish a version of the application."""
    source = folder / version
    source.mkdir()
    (source / "kiosk.service").write_text(KIOSK_UNIT.format(version=version))
    (source / "serve").write_text(KIOSK.format(dies_after_s=dies_after_s))
    (source / "serve").chmod(0o755)
    request = ApplicationRequest(source, Description("kiosk", version, "MIT"), (Port(8090),), memory_mb=64)
    publish(woods, pack_application.pack(request, cache=folder / "packed"))
    return f"kiosk@{version}"


def publish(woods, bundle: Path) -> None:
    for done in (woods.hedgerow("registry", "publish", str(bundle), "--yes"), woods.controller.play("publish.yml")):
        assert done.returncode == 0, done.stdout + done.stderr


def kiosks(woods) -> dict[str, str | None]:
    """Which version answers on each host's loopback."""
    ask = "curl --silent --max-time 5 http://127.0.0.1:8090/ || echo nobody"
    return {host: woods.on(host, ask).strip() for host in woods.pis}


def test_an_application_reaches_all_and_goes_back_while_the_model_is_served(woods, tmp_path: Path) -> None:
    served = woods.serves()
    first = publish_kiosk(woods, tmp_path, "1.0.0")
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout(first, **FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(woods.outcomes().values()) == {"confirmed"}
    assert kiosks(woods) == dict.fromkeys(woods.pis, "1.0.0")
    for applications in versions(woods, "applications").values():
        assert [(each.name, each.version, each.active, each.restarts) for each in applications] == [
            ("kiosk", "1.0.0", True, 0)
        ]
    second = publish_kiosk(woods, tmp_path, "1.1.0")
    with fleets.Callers(woods, woods.pis) as more:
        done = woods.rollout(second, **FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kiosks(woods) == dict.fromkeys(woods.pis, "1.1.0")
    for each in (callers, more):
        each.none_failed()
    back = woods.hedgerow("rollout", "rollback", "--reason", "a test")
    assert back.returncode == 0, back.stdout + back.stderr
    assert kiosks(woods) == dict.fromkeys(woods.pis, "1.0.0")
    assert woods.serves() == served


def test_an_application_that_dies_after_its_start_stops_at_the_canary(woods, tmp_path: Path) -> None:
    before = kiosks(woods)
    bad = publish_kiosk(woods, tmp_path, "1.2.0", dies_after_s=8)
    # Longer than it lives, and than the device waits between two looks.
    soak = {"passes": 4, "interval_s": 2, "minimum_s": 20, "deadline_s": 90}
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout(bad, **FAST | {"soak": soak})
    assert done.returncode != 0
    outcomes = woods.state().hosts
    assert [str(host.outcome) for host in outcomes.values() if host.outcome is not None] == ["reverted"]
    reason = next(host.reason for host in outcomes.values() if host.outcome is not None)
    assert "kiosk" in (reason or "")
    assert kiosks(woods) == before
    callers.none_failed()


def test_an_image_runs_on_a_root_of_its_own_and_goes_back(woods, tmp_path: Path) -> None:
    """What people have is an image: unpacked by the device, started by systemd, as a user that owns nothing."""
    before = kiosks(woods)
    image = oci_answering.write(tmp_path / "image.tar", "2.0.0", port=8090)
    said = Description("kiosk", "2.0.0", "Artistic-2.0")
    request = ApplicationRequest(image, said, (Port(8090),), memory_mb=64, platform=oci_answering.PLATFORM)
    publish(woods, pack_application.pack(request, cache=tmp_path / "packed"))
    pi = woods.pis[0]
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout("kiosk@2.0.0", **FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(woods.outcomes().values()) == {"confirmed"}
    version, user, *root = kiosks(woods)[pi].split()
    assert version == "2.0.0"
    assert int(user.removeprefix("uid=")) >= 61184, "not a user that systemd made up (UID_MIN of DynamicUser=)"
    assert {"answer.pl", "proc", "dev"} <= set(root)
    assert {"opt", "home", "srv", "boot"}.isdisjoint(root), "it sees the device's own root"
    back = woods.hedgerow("rollout", "rollback", "--reason", "a test")
    assert back.returncode == 0, back.stdout + back.stderr
    assert kiosks(woods) == before
    callers.none_failed()
