"""A stage on its way to a gateway: what devices read arrives whole, from any store, and once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import stages

from hedgerow import paths
from hedgerow.identity.ca import FleetCA
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import File, GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import FolderSource, TlsFiles
from hedgerow.registry.store import FolderStore
from hedgerow.registry.verify import fetchable

FLEET = "meadow"
RELEASE = Reference("assistant", "1.0.0")
VARIABLES = {"fleet": FLEET, "inventory_hostname": "gw"}


class Elsewhere:
    """A store that is no folder of this machine: only its verbs can be used."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self.where = "s3://models/meadow"

    def __getattr__(self, name: str) -> Any:
        assert name in {"get", "size", "entries", "open"}, f"{name} is not asked of a store that is read"
        return getattr(self._store, name)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stages.Stage:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    manifest = Manifest(
        schema=1,
        name=RELEASE.name,
        version=RELEASE.version,
        format="onnx",
        license="Apache-2.0",
        files=(File("model.onnx", hashlib.sha256(b"weights").hexdigest(), 7),),
        requires=Requires(memory_mb=1),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText(messages=(Message("user", "?"),), expect="!"),),
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    made = stages.found(paths.stage_dir(FLEET, "production"))
    made.publish(folder)
    return made


@pytest.fixture
def publish(plugin: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the action against a folder that stands for the gateway's; its part runs there from its source alone."""
    module = plugin("action/hedgerow_publish")
    scratch = tmp_path / "sent"

    def execute(cmd: str, *, in_data: bytes, **_: Any) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-I", "-S", "-"], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}

    def run(
        *,
        check: bool = False,
        store: Any = None,
        args: dict[str, Any] | None = None,
        source: Any = None,
        **variables: str,
    ) -> dict[str, Any]:
        given = {"dest": str(tmp_path / "gateway"), "origin": None, "port": 443} | (args or {})
        task = SimpleNamespace(args=given, check_mode=check, async_val=0, diff=False)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="none"))
        action = module.ActionModule(task, connection, SimpleNamespace(check_mode=check), None, None, None)
        action._low_level_execute_command = execute
        action._make_tmp_path = lambda: (scratch.mkdir(exist_ok=True), str(scratch))[1]
        action._remove_tmp_path = shutil.rmtree
        action._transfer_file = shutil.copy
        if source is not None:
            module.HttpsSource = source
        if store is not None:
            module.store_of_stage = lambda fleet, stage: store
        found: dict[str, Any] = action.run(None, VARIABLES | variables)
        return found

    return run


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_gateway_then_has_what_devices_fetch(stage, publish, tmp_path: Path, *, elsewhere: bool) -> None:
    store = Elsewhere(stage.store) if elsewhere else None
    told = publish(check=True, store=store)
    assert (told["changed"], (tmp_path / "gateway").exists()) == (True, False)
    done = publish(store=store)
    assert (done["changed"], done["sent"]) == (True, told["sent"])
    assert done["sent"][-1] == "metadata/timestamp.json"
    assert fetchable(tmp_path / "gateway", RELEASE) == fetchable(stage.root, RELEASE)
    assert not (tmp_path / "gateway/targets/blobs").exists()
    assert publish(store=store)["changed"] is False
    stage.withdraw(str(RELEASE))
    assert publish(store=store)["sent"] == [
        "metadata/3.approve-model.json",
        "metadata/3.snapshot.json",
        "metadata/timestamp.json",
    ]


@pytest.mark.parametrize("check", [False, True])
def test_a_gateway_that_caches_gets_nothing_and_must_show_the_release(stage, publish, tmp_path, *, check) -> None:
    FleetCA.init(paths.fleet_dir(FLEET), FLEET)
    asked = []

    def source(url: str, tls: TlsFiles, *, server_name: str) -> FolderSource:
        asked.append((url, server_name, tls.certificate.name, tls.context() is not None))
        return FolderSource(stage.root)

    args = {"origin": "https://models.example.org/meadow", "port": 8444}
    done = publish(args=args, source=source, check=check, ansible_host="10.0.0.10", site="orchard")
    assert asked == [("https://10.0.0.10:8444/", "gw.orchard.meadow", "controller-operator.crt", True)]
    assert (done["changed"], done["sent"]) == (False, [])
    assert done["seen"]["snapshot"] == 2
    assert (stage.root / done["seen"]["pack"]).is_file()
    assert not (tmp_path / "gateway").exists()


def test_a_gateway_whose_origin_has_no_release_fails(stage, publish, tmp_path) -> None:
    FleetCA.init(paths.fleet_dir(FLEET), FLEET)
    answer = publish(
        args={"origin": "https://models.example.org/meadow"},
        source=lambda *_, **__: FolderSource(tmp_path / "empty"),
        ansible_host="10.0.0.10",
        site="orchard",
    )
    assert answer["failed"]
    assert "its origin has no metadata/timestamp.json" in answer["msg"]


def test_a_stage_that_is_not_founded_is_said(stage, publish) -> None:
    answer = publish(registry_stage="dev")
    assert answer["failed"]
    assert "hedgerow registry init --stage dev" in answer["msg"]
