"""After another port and an origin were asked for: the gateway caches, whatever becomes of the origin.

A device here is the device's own code on the controller, with the controller's certificate; the origin is
`tests/support/origin.py` on the first Pi. The tests build on each other, in this order.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow import paths, ssh
from hedgerow.device.store import stage
from hedgerow.device.store.config import StoreConfig
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.terms import Device
from hedgerow.errors import HedgerowError, NetworkError, PublisherError
from hedgerow.fleet import access
from hedgerow.identity.profiles import Profile
from hedgerow.inventory import Inventory
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import HttpsSource

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
CACHE = "/srv/hedgerow/registry-cache"
RELEASE = Reference("assistant", "1.0.0")
TIMESTAMP = "metadata/timestamp.json"
METADATA_S = 2
PORT, ORIGIN_PORT = 8444, 9443
PATIENCE_S = 60.0


class Scene:
    """The controller, the origin on a Pi, and devices that are this process."""

    def __init__(self, fleet: Inventory, gateway: Any, folder: Path) -> None:
        self.fleet, self.gateway, self.folder = fleet, gateway, folder
        self.pi = fleet.pis[0]
        self.registry = paths.stage_dir(fleet.fleet, "production") / "registry"

    # -- the origin

    def on_origin(self, line: str, stdin: bytes = b"") -> str:
        done = ssh.run(self.fleet, self.pi, f"sudo sh -c '{line}'", stdin=stdin, timeout_s=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bring(self) -> None:
        """What `hedgerow registry push` does: the stage's files to the bucket."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in ("metadata", "targets"):
                archive.add(self.registry / name, f"thicket/{name}")
        self.on_origin("tar -x --no-same-owner -C /srv/origin/bucket", packed.getvalue())

    def serves(self, *, honest: bool = False, forged: bool = False) -> None:
        for name, wanted in (("honest", honest), ("forged", forged)):
            if not wanted:
                self.on_origin(f"systemctl stop test-origin@{name}.service")
        for name, wanted in (("honest", honest), ("forged", forged)):
            if wanted:
                self.on_origin(f"systemctl start test-origin@{name}.service")
                awaited(lambda: self.on_origin(f"ss -Hltn sport = :{ORIGIN_PORT}"))

    def asked(self) -> list[dict[str, Any]]:
        text = self.on_origin("cat /srv/origin/asked.jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def packs(self) -> list[dict[str, Any]]:
        return [asked for asked in self.asked() if "/targets/packs/" in asked["path"]]

    # -- the controller

    def run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name(tool)), *arguments, "-i", str(self.fleet.path)]
        # Molecule's own configuration is of its scenarios, and an operator's command is not in one.
        plain = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=plain, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def play(self, playbook: str, *variables: str) -> subprocess.CompletedProcess[str]:
        given = [
            f"registry_mirror_origin=https://{self.pi.address}:{ORIGIN_PORT}/thicket",
            f"registry_mirror_port={PORT}",
            *variables,
        ]
        extra = [part for each in given for part in ("-e", each)]
        return self.run("ansible-playbook", f"playbooks/{playbook}", *extra)

    # -- a device

    def source(self) -> HttpsSource:
        entry = self.gateway.entry
        name = access.endpoint(entry.name, entry.address, site=entry.site, fleet=self.fleet.fleet).server_name
        files = access.files(self.fleet.fleet, Profile.OPERATOR)
        return HttpsSource(f"https://{entry.address}:{PORT}/", files, server_name=name)

    def read(self, path: str) -> bytes:
        with self.source().open(path) as blocks:
            return b"".join(blocks)

    def stage(self, name: str) -> None:
        """A device of this name fetches the release and verifies every byte of it."""
        folder = self.folder / name
        places = Places(Layout(folder / "models"), folder / "activation", folder / "configuration")
        places.layout.models_dir.mkdir(parents=True, exist_ok=True)
        trust = folder / "trust"
        if not trust.exists():
            trust.mkdir()
            (trust / "root.json").write_bytes((self.registry / "metadata" / "1.root.json").read_bytes())
        device = Device(places, StoreConfig(), reserve_mb=1)
        source = self.source()
        stage.stage(Trusted(source, trust), source, RELEASE, device, at_once=True)
        bundles.verify_files(places.layout.version(RELEASE))

    def said(self, since: float) -> str:
        """What the gateway's web server has said since then."""
        return str(self.gateway.root(f"journalctl --no-pager -q -t nginx --since=@{int(since)}"))


def awaited(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def scene(fleet: Inventory, gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A release of four slices is published, and lies in the bucket."""
    made = Scene(fleet, gateway, tmp_path_factory.mktemp("scene"))
    folder = made.folder / "bundle"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(np.random.default_rng(7).integers(0, 256, 4_000_000, dtype=np.uint8).tobytes())
    manifest = Manifest(
        schema=1,
        name=RELEASE.name,
        version=RELEASE.version,
        format="onnx-genai",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=Requires(memory_mb=1),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText((Message("user", "?"),), "!"),),
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    made.run("hedgerow", "registry", "publish", str(folder), "--yes")
    made.bring()
    return made


def test_it_listens_there_and_no_longer_at_the_old_one(gateway):
    assert gateway.shell.socket(f"tcp://0.0.0.0:{PORT}").is_listening
    assert not gateway.shell.socket("tcp://0.0.0.0:443").is_listening


def test_the_cache_is_the_web_server_s_alone(gateway):
    folder = gateway.file(CACHE)
    assert (folder.user, folder.group, folder.mode) == ("www-data", "www-data", 0o700)


def test_converged_again_nothing_changes(scene):
    """Above all no restart by what the cache has written meanwhile."""
    scene.stage("pi-1")
    done = scene.run("ansible-playbook", "molecule/registry_mirror/changed.yml")
    assert re.search(rf"^{scene.gateway.name} .* changed=0 ", done.stdout, re.MULTILINE), done.stdout


def test_publishing_brings_nothing_and_sees_the_release(scene):
    before = scene.gateway.root("find /srv/hedgerow/registry -type f | wc -l")
    done = scene.play("publish.yml")
    assert "so nothing is brought to it" in done.stdout
    assert "of the stage are seen through it" in done.stdout
    assert scene.gateway.root("find /srv/hedgerow/registry -type f | wc -l") == before
    assert re.search(r"changed=0\s", done.stdout)


def test_a_range_costs_its_slices_and_the_second_device_costs_nothing(scene):
    scene.stage("pi-1")
    asked = scene.packs()
    assert {each["headers"]["range"] for each in asked} <= {
        f"bytes={at << 20}-{((at + 1) << 20) - 1}" for at in range(8)
    }, "slices and nothing else"
    assert len({(each["path"], each["headers"]["range"]) for each in asked}) == len(asked), "each once"
    scene.stage("pi-2")
    assert len(scene.packs()) == len(asked)


def test_the_firewall_knows_the_origin(scene):
    ruleset = scene.gateway.root("nft list table inet hedgerow")
    there = re.escape(f"ip daddr {scene.pi.address} tcp dport {ORIGIN_PORT} counter packets ")
    found = re.search(there + r'(\d+) .* comment "origin"', ruleset)
    assert int(found[1]) > 0


def test_a_new_timestamp_is_seen_within_its_seconds(scene):
    scene.run("hedgerow", "registry", "refresh")
    scene.read(TIMESTAMP)
    scene.bring()
    brought = time.monotonic()
    awaited(lambda: scene.read(TIMESTAMP) == (scene.registry / TIMESTAMP).read_bytes())
    assert time.monotonic() - brought < METADATA_S + 3


def test_an_origin_that_is_gone_costs_devices_nothing_that_is_kept(scene):
    since = time.time() - 1
    scene.stage("pi-2")
    scene.serves()
    try:
        awaited(lambda: scene.read(TIMESTAMP) and "Connection refused" in scene.said(since))
        scene.stage("pi-3")
        with pytest.raises(NetworkError, match="502"):
            scene.read("targets/models/assistant/9.9.9/manifest.json")
    finally:
        scene.serves(honest=True)


def test_an_origin_with_another_s_certificate_is_refused_and_the_log_says_so(scene):
    since = time.time() - 1
    asked = len(scene.asked())
    scene.serves(forged=True)
    try:
        awaited(lambda: scene.read(TIMESTAMP) and "upstream SSL certificate verify error" in scene.said(since))
        with pytest.raises(NetworkError, match="502"):
            scene.read("targets/models/assistant/9.9.9/manifest.json")
        assert len(scene.asked()) == asked, "no request was sent to it"
    finally:
        scene.serves(honest=True)


def test_a_damaged_slice_is_found_by_the_device_and_purged(scene):
    path = scene.packs()[0]["path"].removeprefix("/thicket/")
    file = scene.gateway.root(f"grep -rlaF 'KEY: /{path}bytes=0-' {CACHE}").strip()
    scene.gateway.root(f"printf X | dd of={file} bs=1 seek=500000 conv=notrunc status=none")
    with pytest.raises(PublisherError, match=path.rpartition("/")[2]):
        scene.stage("pi-4")
    done = scene.play("purge_cache.yml", f"path={path}")
    assert path in done.stdout
    scene.stage("pi-4")


def test_a_full_disk_keeps_new_bytes_out_and_serves_the_old(scene):
    gateway = scene.gateway
    gateway.root("systemctl stop nginx.service")
    gateway.root(f"mount -t tmpfs -o size=6m,uid=www-data,gid=www-data,mode=0700 none {CACHE}")
    try:
        gateway.root("systemctl start nginx.service")
        scene.stage("pi-5")
        scene.play("purge_cache.yml", "path=targets/packs/")
        gateway.root(f"fallocate -l $(df --output=avail -B1 {CACHE} | tail -n 1) {CACHE}/filler")
        since = time.time() - 1
        with pytest.raises(HedgerowError):
            scene.stage("pi-6")
        assert "No space left on device" in scene.said(since)
        assert scene.read("targets/models/assistant/1.0.0/manifest.json")
        assert scene.read(TIMESTAMP) == (scene.registry / TIMESTAMP).read_bytes()
        gateway.root(f"rm {CACHE}/filler")
        scene.stage("pi-6")
    finally:
        gateway.root("systemctl stop nginx.service")
        gateway.root(f"umount {CACHE}")
        gateway.root("systemctl start nginx.service")
    scene.stage("pi-7")
