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
    assert pi.root("stat -c '%a %U %G' /etc/hedgerow/server.yml") == "640 root hedgerow-server\n"


def test_it_answers_on_loopback(pi):
    assert pi.run("curl --silent --fail --max-time 10 http://127.0.0.1:8000/health/live").rc == 0
