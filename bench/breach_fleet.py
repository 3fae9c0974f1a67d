"""A fleet of many emulated Pis for one benchmark: made, converged with what a release needs, removed.

Its inventory is written to a folder that the caller removes; roles and variables are the rollout scenario's. Every Pi
serves a model of a few bytes, so that a small machine bears thirty of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from bench.proof import ROOT
from onnx import TensorProto, helper

from hedgerow import inventory as inventories
from hedgerow import output, paths
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

FLEET, NETWORK = "hawthorn", "10.96.0"
FIRST = "1.0.0"
BIN = ROOT / ".venv/bin"
# Nothing is measured here, and two cores that bear thirty hosts bear no thirty gates that look as closely as usual.
_FIRST_POLICY = {
    "waves": ["100%"],
    "soak": {"passes": 1, "interval_s": 0.5, "deadline_s": 600},
    "gate": {"probes": {"count": 1, "baseline_s": 1}, "without": ["slower"]},
    "confirm_within_s": 900,
}
# The scenario's devices look every other second whether a deadline is over, which takes more than two cores of thirty.
_AS_ON_BOARDS = {"model_store_deadline_check_s": 30, "model_store_device": {"agent": {"interval_s": 60}}}
_SCENARIO = ROOT / "molecule" / "rollout"
_TAKEN_OVER = ("confinement", "hosts", "release", "rollout", "ssh")


@contextmanager
def converged(hosts: int, folder: Path) -> Iterator[Inventory]:
    """``hosts`` Pis and a gateway that serve ``adder@1.0.0``; they are gone afterwards, however it ends.

    Raises:
        subprocess.CalledProcessError: a step failed; its output was shown.
    """
    where = ["-i", str(_inventory(hosts, folder / "inventory"))]
    bundle = _bundle(folder / "bundle")
    play = "ansible-playbook"
    try:
        run("hedgerow", "emulate", "up", *where)
        run("hedgerow", "ca", "init", *where)
        run("hedgerow", "registry", "init", "--unattended", *where)
        run("hedgerow", "runtime", "build", *where)
        run("pyinfra", "-y", f"@first-contact/{where[1]}", "deploy/bootstrap.py")
        # None of these Pis has a HAT or an application, and no release here asks for either.
        skipped = ["--forks", "4", "--skip-tags", "hat,applications"]
        run(play, *where, str(_SCENARIO / "converge.yml"), *skipped, "-e", json.dumps(_AS_ON_BOARDS))
        run("hedgerow", "registry", "publish", str(bundle), "--yes", *where)
        run(play, *where, "playbooks/publish.yml")
        extra = {"bundle": f"adder@{FIRST}", "rollout_policy": _FIRST_POLICY}
        run(play, *where, "playbooks/rollout.yml", "-e", json.dumps(extra), "--forks", "6")
        yield inventories.load(Path(where[1]))
    finally:
        run("hedgerow", "emulate", "down", *where)
        shutil.rmtree(paths.fleet_dir(FLEET), ignore_errors=True)


def run(tool: str, *arguments: str) -> None:
    """One command as an operator types it; its output goes to standard error where it fails.

    Raises:
        subprocess.CalledProcessError: it ended with another code than 0.
    """
    output.step(" ".join([tool, *arguments[:3]]))
    environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(BIN / tool), *arguments], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        output.err.print((done.stdout + done.stderr)[-4000:], highlight=False, markup=False)
    done.check_returncode()


def _inventory(hosts: int, folder: Path) -> Path:
    """An inventory of ``hosts`` Pis of one site, all alike."""
    group_vars = folder / "group_vars" / "all"
    group_vars.mkdir(parents=True)
    for name in _TAKEN_OVER:
        source = (_SCENARIO / "inventory" / "group_vars" / "all" / f"{name}.yml").resolve()
        (group_vars / f"{name}.yml").write_bytes(source.read_bytes())
    names = [f"pi-{FLEET}-{number}" for number in range(1, hosts + 1)]
    pis = {
        name: {"ansible_host": f"{NETWORK}.{20 + number}", "pi_serial": f"e0d1c2b3a497{number:04x}", "hat": "none"}
        for number, name in enumerate(names)
    }
    gateway = f"gw-{FLEET}"
    groups = {
        "pis": {"hosts": pis},
        "gateways": {
            "hosts": {gateway: {"ansible_host": f"{NETWORK}.10", "pi_serial": "e0d1c2b3a497ffff", "hat": "none"}}
        },
        f"site_{FLEET}": {"hosts": dict.fromkeys([gateway, *names]), "vars": {"site": FLEET}},
    }
    of_the_fleet = {
        "fleet": FLEET,
        "admin_user": "hedgerow-admin",
        "registry_url": f"https://{NETWORK}.10/",
        "serving_model": "adder",
        "emulator_network": f"{NETWORK}.0/24",
        "hardening_operator_networks": [f"{NETWORK}.1"],
    }
    (group_vars / "fleet.yml").write_text(yaml.safe_dump(of_the_fleet), encoding="utf-8")
    (folder / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False), encoding="utf-8")
    return folder


def _bundle(folder: Path) -> Path:
    """A model that adds one."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "adds", values[:1], values[1:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    folder.mkdir()
    (folder / "model.onnx").write_bytes(data)
    manifest = Manifest(
        schema=1,
        name="adder",
        version=FIRST,
        format="onnx",
        license="Apache-2.0",
        files=(File("model.onnx", hashlib.sha256(data).hexdigest(), len(data)),),
        requires=Requires(memory_mb=1),
        provenance=Provenance(sources=(Source("bench/breach_fleet.py"),), builder="bench/breach_fleet.py", tools={}),
        golden=(
            GoldenTensors(
                inputs=(GoldenTensor("x", (2,), (1.0, 2.0)),),
                outputs=(GoldenTensor("y", (2,), (2.0, 3.0)),),
                atol=1e-6,
                rtol=0,
            ),
        ),
        inputs=(Tensor("x", "FP32", (-1,)),),
        outputs=(Tensor("y", "FP32", (-1,)),),
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    return folder
