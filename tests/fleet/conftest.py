"""A converged fleet (HEDGEROW_TEST_INVENTORY names it, as Molecule does) and what a controller does to it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow import inventory as inventories
from hedgerow import ssh
from hedgerow.inventory import Inventory
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import (
    File,
    GoldenTensor,
    GoldenTensors,
    Manifest,
    Provenance,
    Requires,
    Source,
    Tensor,
)

REPOSITORY = Path(__file__).parents[2]


class Controller:
    """Commands as an operator types them, on one fleet."""

    def __init__(self, inventory: Inventory, folder: Path) -> None:
        self.inventory = inventory
        self.folder = folder
        self.pis = [host.name for host in inventory.pis]

    def hedgerow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("hedgerow", *arguments, "-i", str(self.inventory.path))

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("ansible-playbook", "-i", str(self.inventory.path), f"playbooks/{playbook}", *arguments)

    def start(self, playbook: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """A playbook in a process group of its own, to be killed."""
        command = [_tool("ansible-playbook"), "-i", str(self.inventory.path), f"playbooks/{playbook}", *arguments]
        # Tests that run in the background of a shell have Ctrl-C ignored, and so would their children.
        command = ["env", "--default-signal=INT", *command]
        with log.open("wb") as file:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=_plain(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def on(self, host: str, command: str, *, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """A shell line on a host, as root."""
        found = self.inventory.hosts[host]
        quoted = command.replace("'", "'\\''")
        return ssh.run(self.inventory, found, f"sudo sh -c '{quoted}'", stdin=stdin, timeout_s=120)

    def table(self) -> dict[str, dict[str, Any]]:
        return {row["host"]: row for row in json.loads(self.hedgerow("fleet", "table", "--json").stdout)}

    def serves(self) -> dict[str, str | None]:
        return {name: row["model"] for name, row in self.table().items()}

    def publish(self, version: str, *, golden: float | None = None, products: int = 0) -> str:
        """Publish a model that adds a number of its version.

        ``golden`` is the number it claims to add; it multiplies ``products`` matrices on the way, which takes time.
        """
        name = str(self.inventory.vars["serving_model"])
        added = float(version.rpartition(".")[2])
        folder = self.folder / version
        folder.mkdir()
        data = _adds(added, products, made_for=f"{name}@{version}")
        (folder / "model.onnx").write_bytes(data)
        claimed = added if golden is None else golden
        shape = {"name": "x", "dtype": "FP32", "shape": (-1,)}
        manifest = Manifest(
            schema=1,
            name=name,
            version=version,
            format="onnx",
            license="Apache-2.0",
            files=(File("model.onnx", hashlib.sha256(data).hexdigest(), len(data)),),
            requires=Requires(memory_mb=1),
            provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
            golden=(
                GoldenTensors(
                    inputs=(GoldenTensor("x", (2,), (1.0, 2.0)),),
                    outputs=(GoldenTensor("y", (2,), (1.0 + claimed, 2.0 + claimed)),),
                    atol=1e-6,
                    rtol=0,
                ),
            ),
            inputs=(Tensor(**shape),),
            outputs=(Tensor(**(shape | {"name": "y"})),),
        )
        (folder / "manifest.json").write_bytes(manifests.encode(manifest))
        for done in (self.hedgerow("registry", "publish", str(folder), "--yes"), self.play("publish.yml")):
            assert done.returncode == 0, done.stdout + done.stderr
        return f"{name}@{version}"

    def _run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_tool(tool), *arguments],
            cwd=REPOSITORY,
            env=_plain(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )


def _plain() -> dict[str, str]:
    """The environment without colour, which Molecule forces: output is read here."""
    return {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "FORCE_COLOR": "", "NO_COLOR": "1", "PY_COLORS": "0"}


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


_WIDE = 512
"""A product of two such matrices is 0.27 billion operations: some 10 ms of a core."""


def _adds(number: float, products: int, *, made_for: str) -> bytes:
    """A model that adds ``number``. Its bytes are its release's alone: a device that has them all fetches nothing."""
    from onnx import TensorProto, helper

    def constant(name: str, kind: int, shape: list[int], values: list[float]) -> Any:
        return helper.make_tensor(name, kind, shape, values)

    nodes = [helper.make_node("Add", ["x", "number"], ["sum" if products else "y"])]
    constants = [constant("number", TensorProto.FLOAT, [1], [number])]
    if products:
        # A matrix of zeros that depends on the input, so that no optimiser can know it beforehand.
        constants += [
            constant("zero", TensorProto.FLOAT, [1], [0.0]),
            constant("wide", TensorProto.INT64, [2], [_WIDE, _WIDE]),
            constant("all", TensorProto.INT64, [2], [0, 1]),
        ]
        nodes += [
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "zero"], ["nothing"]),
            helper.make_node("Expand", ["nothing", "wide"], ["m0"]),
            *(helper.make_node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(products)),
            helper.make_node("ReduceSum", [f"m{products}", "all"], ["rest"], keepdims=0),
            helper.make_node("Add", ["sum", "rest"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "adds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, doc_string=made_for)
    data: bytes = model.SerializeToString()
    return data


# Long after anything that comes at all has come: on a busy machine a late condition is no wrong one.
_PATIENCE_S = 120.0


def eventually(condition: Callable[[], bool], *, within_s: float = _PATIENCE_S) -> None:
    """Wait until ``condition`` holds; fail if it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.2)


def _helpers(name: str) -> Any:
    """A module beside these tests; pytest's importlib mode puts nothing on sys.path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


for _name in ("rollout_fleet", "identity_fleet", "wrong_clock"):
    _helpers(_name)


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="session")
def controller_of() -> Callable[[Path, Path], Controller]:
    """The controller of an inventory that a test brings with it; the folder is for its bundles."""
    return lambda path, folder: Controller(inventories.load(path), folder)


@pytest.fixture(scope="module")
def woods(controller: Controller) -> Any:
    """The rollout scenario's fleet; every Pi serves the first release when a module begins."""
    if "HEDGEROW_TEST_ROLLOUT" not in os.environ:
        pytest.skip("releases on a fleet of eight take minutes: make test-rollout")
    fleet = _helpers("rollout_fleet").Fleet(controller)
    for host in fleet.pis:  # whatever a test that was cut off has left
        fleet.board(host, temperature_c=48, throttled="0x0")
    fleet.ready(fleet.release())
    return fleet


@pytest.fixture(scope="module")
def spinney(controller: Controller) -> Any:
    """The identity scenario's fleet; every Pi serves one release, and every host has its own certificate."""
    if "HEDGEROW_TEST_IDENTITY" not in os.environ:
        pytest.skip("a fleet whose certificates are exchanged and broken takes minutes: make test-identity")
    fleet = _helpers("identity_fleet").Fleet(controller)
    for host in fleet.pis:  # whatever a test that was cut off has left
        fleet.rested(host)
    if len(set(fleet.serves().values()) - {None}) != 1:
        fleet.ready(fleet.release())
    return fleet


@pytest.fixture
def sound(woods: Any, wait: Callable[..., None]) -> Iterator[None]:
    """After whatever a test did: no host is drained, none without a model in service, none waits for anybody.

    A test that fails in the middle of a rollout kills it; that one is brought to its end here, so that the next test
    has a sound fleet again.
    """
    yield
    woods.settle()
    left: list[str] = []

    def well() -> bool:
        left[:] = woods.sound()
        return not left

    try:
        wait(well)
    except AssertionError:
        pytest.fail("; ".join(left))


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Controller:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    if path is None:
        pytest.skip("HEDGEROW_TEST_INVENTORY names no converged fleet; `molecule verify -s site` does")
    return Controller(inventories.load(Path(path)), tmp_path_factory.mktemp("bundles"))
