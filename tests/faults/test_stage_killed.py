"""Kill -9 before every write, flush and rename of staging, activating and collecting, and in the middle of writes.

After each: every version that is there is whole, the one in service too; the same command again comes to its end; and
nothing is left behind once ``cache collect`` has run. ``HEDGEROW_ALL_POINTS=1`` takes all points, the default a few of
each case, spread over it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.faults.conftest import Runner, points
from tests.unit.device.store.registry_double import Double, safetensors, write_bundle

from hedgerow.device.store.layout import Layout
from hedgerow.registry import bundle as bundles

pytestmark = pytest.mark.slow

SAMPLE = 4
OLD, MIDDLE, NEW = "1.0.0", "1.1.0", "1.2.0"
# Of the case, of the uninterrupted run: how many points there are.
POINTS: dict[str, int] = {}


class StoreRunner(Runner):
    def __init__(self):
        script = Path(__file__).with_name("store_runner.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=300)  # a busy machine takes its time; a runner that hangs is a failure all the same
        self._process.stdout.close()


@pytest.fixture(scope="module")
def store_runner():
    made = StoreRunner()
    yield made
    made.close()


def files(version):
    """Ten files: a few small, tensors of which one is as it was, one changed a little, one is new."""
    generator = np.random.default_rng(7)
    still, turned = (generator.integers(0, 256, 150_000, dtype=np.uint8) for _ in range(2))
    turned[:: 40 + len(version)] += int(version[2])
    new = np.random.default_rng(int(version[2])).integers(0, 256, 70_000, dtype=np.uint8)
    tensors = {"still": still.tobytes(), "turned": turned.tobytes(), "new": new.tobytes()}
    found = {"model.safetensors": safetensors(tensors)}
    return found | {f"part{n}/file{n}.json": json.dumps([n, version if n % 3 == 0 else ""]).encode() for n in range(9)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    registry = Double(folder / "registry")
    for version, against in ((OLD, ()), (MIDDLE, (OLD,)), (NEW, (OLD, MIDDLE))):
        bundle = write_bundle(folder / version, version, files(version))
        registry.publish(bundle, against=tuple(f"assistant@{each}" for each in against))
    return registry


class Machine:
    """The device with its store, and a copy of it to go back to before every kill."""

    def __init__(self, device, server, runner, registry):
        self.device, self.server, self._runner, self._registry = device, server, runner, registry
        self.layout = Layout(device.config.models_dir)

    def run(self, *argv, **order):
        words = [*argv, "--config", str(self.device.config_file), "--json"]
        return self._runner.run("hedgerow-device", *words, registry=str(self._registry.root), **order)

    def must(self, *argv, **order):
        done = self.run(*argv, **order)
        assert done.code == 0, (argv, done.stderr)
        return done

    def keep(self):
        self.kept = self.device.root / "kept"
        self.serving = self.server.serving
        for name in ("models", "activation"):
            shutil.copytree(self.device.root / name, self.kept / name, symlinks=True)

    def restore(self):
        for name in ("models", "activation"):
            shutil.rmtree(self.device.root / name)
            shutil.copytree(self.kept / name, self.device.root / name, symlinks=True)
        self.server.serving, self.server.prepared = self.serving, None

    def serve(self, version):
        self.must("stage", f"assistant@{version}")
        self.must("activate", f"assistant@{version}", "--confirm-within", "3600")
        self.must("confirm", f"assistant@{version}")

    def debris(self):
        """What neither a version nor the store's memory is."""
        memory = {"lock", "used.json", "pins.json", "written.json", "recipes", "signed", "partial", "trash"}
        found = [path for path in self.layout.folder.iterdir() if path.name not in memory]
        for folder in (self.layout.partials, self.layout.trash):
            found += folder.iterdir() if folder.exists() else ()
        found += [path for path in self.layout.models_dir.rglob(".*") if path != self.layout.folder]
        found += [
            path
            for path in self.layout.recipes.glob("*/*")
            if not (self.layout.home(path.parent.name) / path.name).is_dir()
        ]
        return found


@pytest.fixture
def machine(device, server, store_runner, published):
    return Machine(device, server, store_runner, published)


def nothing(machine):
    """A device that has just been converged."""


def served(machine):
    machine.serve(OLD)


def cut_off(machine):
    machine.serve(OLD)
    assert machine.run("stage", f"assistant@{NEW}", cut=60_000).code == 1


def damaged(machine):
    machine.serve(OLD)
    machine.must("stage", f"assistant@{MIDDLE}")
    with (machine.device.home / OLD / "model.safetensors").open("r+b") as file:
        file.seek(100_000)
        file.write(b"damaged")


def staged(machine):
    machine.serve(OLD)
    machine.must("stage", f"assistant@{NEW}")


def crowded(machine):
    machine.serve(OLD)
    machine.must("stage", f"assistant@{MIDDLE}")
    machine.serve(NEW)


STAGE_NEW = ("stage", f"assistant@{NEW}")
CASES = {
    "the first version": (nothing, ("stage", f"assistant@{OLD}"), {OLD}),
    "the next version": (served, STAGE_NEW, {OLD, NEW}),
    "a download that was cut off": (cut_off, STAGE_NEW, {OLD, NEW}),
    "a damaged version": (damaged, ("stage", f"assistant@{OLD}"), {OLD, MIDDLE}),
    "activation": (staged, ("activate", f"assistant@{NEW}", "--confirm-within", "3600"), {OLD, NEW}),
    "collection": (crowded, ("cache", "collect", "--budget-mb", "0"), {OLD, NEW}),
}


@pytest.mark.parametrize("case", CASES)
def test_killed(case, machine):
    prepare, argv, versions = CASES[case]
    prepare(machine)
    device = machine.device
    before = device.current
    machine.keep()
    whole = machine.must(*argv)
    after = device.current
    assert set(device.versions()) == versions
    POINTS[case] = whole.steps
    for point in points(whole.steps, SAMPLE):
        machine.restore()
        assert machine.run(*argv, kill_at=point).code == -9, point
        assert device.current in {before, after}, point
        for version in device.versions():
            if case != "a damaged version" or version != OLD or point == whole.steps:
                bundles.verify_files(device.home / version)
        if device.current is not None and case != "a damaged version":
            machine.server.restart()  # verifies what it starts with
        machine.must(*argv)
        machine.must("cache", "collect")
        assert (set(device.versions()), device.current) == (versions, after), point
        for version in versions:
            bundles.verify_files(device.home / version)
        assert machine.debris() == [], point


def test_there_are_enough_points():
    """The bar is 300 points over all cases; runs after the cases, which count them."""
    if len(POINTS) < len(CASES):
        pytest.skip("only with all cases in one run")
    print(f"{sum(POINTS.values())} points: {POINTS}")
    assert sum(POINTS.values()) >= 300, POINTS
