"""What role `inference_runtime` promises of any converged Pi."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


CURRENT = "/opt/hedgerow/runtime/current"


def test_it_runs_and_will_after_a_reboot(pi):
    assert pi.service("hedgerow-server.service").is_running
    assert pi.service("hedgerow-server.service").is_enabled


def test_the_runtime_is_whole(pi):
    pi.root(f"test -f {CURRENT}/hedgerow-runtime.json")
    assert pi.root(f"{CURRENT}/bin/python -c 'import onnxruntime, onnxruntime_genai; print(1)'") == "1\n"


def test_nobody_but_root_may_change_the_runtime(pi):
    assert pi.root("find -L /opt/hedgerow/runtime/current/ -xdev ! -user root -print -quit") == ""
    assert pi.root("find /opt/hedgerow/runtime -xdev -perm /022 ! -type l -print -quit") == ""


def test_its_configuration_is_for_the_server_s_eyes(pi):
    assert pi.root("stat -L -c '%a %U %G' /etc/hedgerow/server.yml") == "640 root hedgerow-server\n"


def test_it_answers_on_loopback(pi):
    assert pi.run("curl --silent --fail --max-time 10 http://127.0.0.1:8000/health/live").rc == 0


def test_versions_of_the_configuration_lie_beside_each_other(pi):
    assert pi.root("readlink /etc/hedgerow/server.yml") == "/var/lib/hedgerow/configuration/current/server.yml\n"
    version = pi.root("basename $(readlink -f /var/lib/hedgerow/configuration/current)").strip()
    assert pi.root("sha256sum < /etc/hedgerow/server.yml").startswith(version)


def test_what_commands_the_device_is_a_confirmed_runtime(pi):
    assert pi.root("readlink /opt/hedgerow/runtime/confirmed") == pi.root(f"readlink {CURRENT}")


def test_nobody_but_root_has_the_server_restarted(pi):
    assert pi.root("stat -c '%a %U' /run/hedgerow-switch.sock") == "600 root\n"
