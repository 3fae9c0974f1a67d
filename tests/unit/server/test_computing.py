"""With what models are computed: threads by what this process may have, and ONNX Runtime's providers in their order.

The wheel of the lock computes on the CPU alone. The last tests are for one that has another provider, and run where
such a one is installed (docs/serving.md); for the rest, what onnxruntime says of its build is made up.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from tests.unit.server import support

from hedgerow.cli import cli
from hedgerow.errors import UsageError
from hedgerow.server import backends, computing, config, run
from hedgerow.server.backends import onnx, providers
from hedgerow.server.computing import Provider, cpu_quota, default_threads

XNNPACK = Provider("XnnpackExecutionProvider", {"intra_op_num_threads": "3"})
ACL = Provider("ACLExecutionProvider")
CPU = Provider(providers.CPU)
OPENVINO = "OpenVINOExecutionProvider"
DEVICE = "host: pi-1\nserial: '10000000aabbccdd'\nfleet: copse\nsite: north\nmodel: m\n"

# ── threads ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cores, threads", [(1, 1), (2, 2), (4, 3), (8, 7)])
def test_a_core_is_left_where_there_are_more_than_two(cores: int, threads: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(computing, "cpu_quota", lambda: None)
    assert default_threads() == threads


@pytest.mark.parametrize("quota, threads", [(0.5, 1), (1.0, 1), (2.5, 2), (3.0, 3), (4.0, 3)])
def test_no_more_than_the_control_group_may_have(quota: float, threads: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(computing, "cpu_quota", lambda: quota)
    assert default_threads() == threads


def _groups(tmp_path: Path, limits: dict[str, str], own: str) -> tuple[Path, Path]:
    root = tmp_path / "cgroup"
    for name, text in limits.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "own").write_text(own)
    return root, tmp_path / "own"


def test_the_least_of_a_group_and_those_above_it_holds(tmp_path) -> None:
    service = "system.slice/hedgerow-server.service"
    limits = {service: "300000 100000", "system.slice": "250000 100000", "user.slice": "1000 100000"}
    assert cpu_quota(*_groups(tmp_path, limits, f"0::/{service}\n")) == 2.5


@pytest.mark.parametrize("own", ["0::/system.slice\n", "0::/\n", "4:memory:/x\n1:cpu:/y\n", ""])
def test_without_a_limit_there_is_none(own: str, tmp_path) -> None:
    assert cpu_quota(*_groups(tmp_path, {"system.slice": "max 100000"}, own)) is None


def test_a_kernel_without_control_groups_limits_nothing(tmp_path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None


# ── which providers ─────────────────────────────────────────────────────────


@pytest.fixture
def built_with(monkeypatch):
    """A build of onnxruntime with these providers beside the CPU, which cannot be told from the real by its list."""

    def build(*names: str) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: [*names, providers.CPU])

    return build


def test_those_that_there_are_in_their_order_and_the_cpu_behind(built_with, caplog) -> None:
    built_with("ACLExecutionProvider", "XnnpackExecutionProvider")
    assert providers.choose([XNNPACK, ACL]) == [XNNPACK, ACL, CPU]
    assert providers.choose([]) == [CPU]
    assert not caplog.records


def test_one_that_the_build_lacks_is_passed_over_and_told(built_with, caplog) -> None:
    built_with("ACLExecutionProvider")
    assert providers.choose([XNNPACK, ACL]) == [ACL, CPU]
    (told,) = caplog.messages
    assert told.startswith(
        "this onnxruntime is built without XnnpackExecutionProvider; built with ACLExecutionProvider"
    )


def test_nothing_comes_behind_the_cpu(built_with) -> None:
    built_with("ACLExecutionProvider")
    assert providers.choose([CPU, ACL]) == [CPU]


@pytest.mark.parametrize(
    "names, said",
    [
        (["XnnpakExecutionProvider"], r"onnxruntime [\d.]+ knows no XnnpakExecutionProvider"),
        (["ACLExecutionProvider", "ACLExecutionProvider"], "ACLExecutionProvider is there twice"),
        (["AzureExecutionProvider"], "AzureExecutionProvider computes outside of this machine"),
    ],
)
def test_a_list_that_nobody_could_obey_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        providers.check([Provider(name) for name in names], where="providers")
    assert caught.value.where == "providers"
    assert caught.value.next_step


def test_what_onnxruntime_knows_is_allowed_whatever_is_built_in() -> None:
    providers.check([XNNPACK, ACL, CPU], where="providers")


# ── a session ───────────────────────────────────────────────────────────────


def _answer(folder: Path, *wanted: Provider) -> tuple[onnx.OnnxBackend, list[float]]:
    backend = backends.load(folder, threads=1, providers=wanted)
    assert isinstance(backend, onnx.OnnxBackend)
    return backend, backend.infer({"x": np.ones((1, 2), np.float32)}, [])["y"][0].tolist()


def test_a_model_is_served_where_none_of_the_wanted_is(tmp_path) -> None:
    folder = support.write_add(tmp_path, 1.0)
    backend, answer = _answer(folder, XNNPACK, ACL)
    assert answer == [2.0, 2.0]
    assert backend.providers == (providers.CPU,)
    assert backend.inline


def test_one_that_fails_leaves_the_model_to_the_cpu(built_with, monkeypatch, tmp_path, caplog) -> None:
    """As onnxruntime does where a provider is built in and its library or device is missing: it raises."""
    built_with("XnnpackExecutionProvider")
    whole, asked = ort.InferenceSession, []

    def session(path, options, providers):
        asked.append(providers)
        if len(providers) > 1:
            raise RuntimeError("libxnnpack.so: cannot open shared object file")
        return whole(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", session)
    folder = support.write_add(tmp_path, 1.0)
    backend, answer = _answer(folder, XNNPACK)
    assert answer == [2.0, 2.0]
    assert backend.providers == (providers.CPU,)
    assert asked == [
        [("XnnpackExecutionProvider", {"intra_op_num_threads": "3"}), (providers.CPU, {})],
        [(providers.CPU, {})],
    ]
    assert "not on XnnpackExecutionProvider, so on the CPU: libxnnpack.so: cannot open" in caplog.text


def test_a_graph_that_the_cpu_cannot_compute_either_is_unusable(built_with, tmp_path) -> None:
    built_with("XnnpackExecutionProvider")
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(backends.Unusable, match="INVALID_PROTOBUF"):
        backends.load(tmp_path, providers=[XNNPACK])


# ── the operator's word ─────────────────────────────────────────────────────


def test_a_device_s_configuration_says_threads_and_providers() -> None:
    wanted = "{name: XnnpackExecutionProvider, options: {intra_op_num_threads: '3'}}"
    text = f"{DEVICE}threads: 3\nproviders: [{wanted}]\n"
    found = config.decode(text.encode(), where="server.yml")
    assert (found.threads, found.providers) == (3, (XNNPACK,))


@pytest.mark.parametrize(
    "line, said",
    [
        ("providers: [{name: xnnpack}]", "ExecutionProvider"),
        ("providers: [{name: ACLExecutionProvider, option: {}}]", "option"),
        ("providers: [ACLExecutionProvider]", "object"),
    ],
)
def test_a_list_of_another_form_is_refused_by_name(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config.decode(f"{DEVICE}{line}\n".encode(), where="server.yml")


def test_a_device_does_not_start_with_a_misspelled_provider() -> None:
    text = f"{DEVICE}providers: [{{name: XnnpakExecutionProvider}}]\n"
    with pytest.raises(UsageError, match="knows no XnnpakExecutionProvider"):
        run.serve_device(config.decode(text.encode(), where="server.yml"))


def test_a_workstation_does_not_either(tmp_path) -> None:
    support.write_add(tmp_path / "add" / "1", 1.0)
    done = CliRunner().invoke(cli, ["serve", "--repository", str(tmp_path), "--provider", "AclExecutionProvider"])
    assert isinstance(done.exception, UsageError)
    assert done.exception.where == "--provider"


@pytest.mark.parametrize("option", [["--threads", "2"], ["--provider", "ACLExecutionProvider"], ["--isolate"]])
def test_a_device_s_are_not_given_on_the_command_line(option: list[str], tmp_path) -> None:
    done = CliRunner().invoke(cli, ["serve", "--config", str(tmp_path / "server.yml"), *option])
    assert isinstance(done.exception, UsageError)
    assert "'threads', 'providers' and 'isolate'" in str(done.exception.next_step)


# ── another build ───────────────────────────────────────────────────────────


@pytest.mark.skipif(OPENVINO not in ort.get_available_providers(), reason="this onnxruntime has no OpenVINO")
def test_another_provider_computes(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="hedgerow.server")
    folder = support.write_add(tmp_path, 1.0)
    backend, answer = _answer(folder, XNNPACK, Provider(OPENVINO, {"device_type": "CPU"}))
    assert answer == [2.0, 2.0]
    assert backend.providers == (OPENVINO, providers.CPU)
    assert not backend.inline
    assert f"on {OPENVINO}, {providers.CPU}" in caplog.text


@pytest.mark.skipif(OPENVINO not in ort.get_available_providers(), reason="this onnxruntime has no OpenVINO")
def test_a_device_that_is_not_there_leaves_the_model_to_the_cpu(tmp_path) -> None:
    folder = support.write_add(tmp_path, 1.0)
    backend, answer = _answer(folder, Provider(OPENVINO, {"device_type": "NPU"}))
    assert answer == [2.0, 2.0]
    assert backend.providers == (providers.CPU,)
