"""`hedgerow runtime build` on copies of the example inventory; nothing is downloaded."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hedgerow import paths
from hedgerow.commands.release import release
from hedgerow.commands.runtime import runtime
from hedgerow.errors import UsageError
from hedgerow.runtime import wheelhouse
from hedgerow.runtime.target import Target
from hedgerow.runtime.version import runtime_version

EMPTY_ZIP = b"PK\5\6" + bytes(18)
INVENTORIES = paths.repository_root() / "inventory"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    shutil.copytree(INVENTORIES / "example", tmp_path / "example")
    shutil.copy(INVENTORIES / "schema.json", tmp_path)
    return tmp_path / "example"


@pytest.fixture(autouse=True)
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each locked package is a wheel without files; what is packed is real."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))

    def download(requirements: Path, target: Target, destination: Path) -> None:
        for line in requirements.read_text().splitlines():
            (destination / f"{line.split('==')[0]}-1-py3-none-any.whl").write_bytes(EMPTY_ZIP)

    def own(root: Path, destination: Path) -> Path:
        path = destination / "hedgerow-0.1.0-py3-none-any.whl"
        path.write_bytes(EMPTY_ZIP)
        return path

    monkeypatch.setattr(wheelhouse, "_pip_download", download)
    monkeypatch.setattr(wheelhouse, "_own_wheel", own)


def build(*arguments: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(runtime, ["build", "--json", *arguments])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)["wheelhouses"]


def packages(house: dict[str, Any]) -> set[str]:
    with tarfile.open(house["archive"]) as tar:
        return {line.partition("==")[0] for line in tar.extractfile("requirements.txt").read().decode().splitlines()}


def test_a_fleet_that_asks_for_nothing_gets_the_device_extra(fleet: Path) -> None:
    (house,) = build("-i", str(fleet))
    assert (house["extras"], house["version"]) == ([], runtime_version(paths.repository_root()))
    assert not {"opentelemetry-sdk", "av"} & packages(house)


def test_hosts_get_what_they_ask_for(fleet: Path) -> None:
    (fleet / "host_vars/pi-upper-2.yml").write_text("inference_runtime_extras: [vision, traces]\n")
    plain, added = build("-i", str(fleet))
    assert (plain["extras"], added["extras"]) == ([], ["traces", "vision"])
    assert {"opentelemetry-sdk", "av"} <= packages(added)
    assert packages(plain) < packages(added)
    assert plain["version"] != added["version"]


def test_a_command_line_may_say_it(fleet: Path) -> None:
    (house,) = build("--python", "3.13", "--arch", "aarch64", "--extra", "traces")
    assert (house["extras"], "opentelemetry-sdk" in packages(house)) == (["traces"], True)
    assert [each["built"] for each in build("-i", str(fleet), "--extra", "traces")] == [False]
    done = CliRunner().invoke(runtime, ["build", "--extra", "trace"])
    assert (done.exit_code, "'traces', 'vision'" in done.output) == (2, True)


def test_an_inventory_that_asks_for_what_there_is_not_is_refused(fleet: Path) -> None:
    (fleet / "host_vars/pi-upper-2.yml").write_text("inference_runtime_extras: [cameras]\n")
    with pytest.raises(UsageError, match="'cameras' is no extra") as caught:
        build("-i", str(fleet))
    assert caught.value.where == "inference_runtime_extras of pi-upper-2"


def test_a_release_is_held_to_the_wheels_that_its_hosts_get(fleet: Path) -> None:
    """The page-size rule says nothing as long as a runtime of the fleet was not looked at."""

    def asked() -> bool:
        done = CliRunner().invoke(release, ["check", "-i", str(fleet), "--json"], catch_exceptions=False)
        return "binary-pages" not in json.loads(done.stdout)["not_asked"]

    build("--python", "3.13", "--arch", "aarch64")
    assert asked()
    (fleet / "host_vars/pi-upper-2.yml").write_text("inference_runtime_extras: [vision]\n")
    assert not asked()
