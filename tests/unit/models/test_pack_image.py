"""An OCI image becomes an application: which image is meant, what it starts, and the same bytes for the same image."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.support import oci
from tests.support.oci import Image, entry, files, image, link, write

from hedgerow.device import application_unit as on_device
from hedgerow.errors import RefusedError, UsageError
from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest, read_port
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Port

SAID = Description("kiosk", "1.0.0", "MIT", builder="hedgerow model pack")
RUNS = {"Entrypoint": ["/app/run"]}


@pytest.fixture
def pack(tmp_path):
    def make(source: Path | Image, cache: str = "cache", **fields):
        path = source if isinstance(source, Path) else write(tmp_path / "image.tar", files(source))
        return bundle.verify_files(
            pack_application.pack(ApplicationRequest(path, SAID, **fields), cache=tmp_path / cache)
        )

    return make


def unit_of(packed) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (packed.directory / "kiosk.service").read_text().splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found


def words(text: str) -> list[str]:
    r"""Read a command as systemd does: quotes, ``\xNN``, then ``%%`` and ``$$``."""
    return [
        bytes(word, "latin-1").decode("unicode_escape").encode("latin-1").decode().replace("%%", "%").replace("$$", "$")
        for word in shlex.split(text.replace("\\", "\\\\"))
    ]


def test_an_image_becomes_an_application(pack, tmp_path):
    ports = (read_port("8090/tcp=a page"),)
    config = {**RUNS, "User": "10001", "ExposedPorts": {"8090/tcp": {}}}
    packed = pack(Image(config=config), ports=ports, models=("assistant",), memory_mb=256)
    found = packed.manifest
    assert (found.kind, found.format, found.schema) == ("application", "unit-root", 2)
    assert (found.requires.memory_mb, found.requires.machine, found.requires.disk_mb) == (256, "aarch64", 1)
    assert (found.application.user, found.application.unit, found.application.root) == (
        "dynamic", "kiosk.service", "root.tar",
    )  # fmt: skip
    assert found.application.ports == (Port(8090, "tcp", "a page"),)
    (source,) = found.provenance.sources
    with tarfile.open(tmp_path / "image.tar") as archive:
        manifest = json.load(archive.extractfile("index.json"))["manifests"][0]
    assert (source.version, f"sha256:{source.sha256}") == ("linux/arm64", manifest["digest"])


def test_the_same_image_gives_the_same_bytes_however_it_was_written(pack, tmp_path):
    """As an archive, again a second later, as a folder, and among others: only the image itself counts."""
    ours = Image(platform={"os": "linux", "architecture": "arm64"})
    other = Image(architecture="amd64", platform={"os": "linux", "architecture": "amd64"}, config={"Cmd": ["x"]})
    content = files(ours)
    sources = [
        write(tmp_path / "one.tar", content),
        write(tmp_path / "two.tar", dict(reversed(content.items())), mtime=1_700_000_000),
        write(tmp_path / "layout", content),
        write(tmp_path / "several.tar", files(other, ours)),
    ]
    assert len({pack(source, cache=f"cache-{number}").sha256 for number, source in enumerate(sources)}) == 1


def test_what_systemd_mounts_over_is_there(pack):
    image = Image(layers=((oci.RUN, entry("dev", "a file"), link("tmp", "/data"), link("etc/hosts", "/run/hosts")),))
    packed = pack(image)
    with tarfile.open(packed.directory / "root.tar") as archive:
        kinds = {member.name: "d" if member.isdir() else "f" for member in archive if not member.issym()}
    assert {name: kinds.get(name) for name in ("dev", "proc", "run", "sys", "tmp", "var/tmp")} == dict.fromkeys(
        ("dev", "proc", "run", "sys", "tmp", "var/tmp"), "d"
    )
    assert (kinds["etc/hosts"], kinds["etc/resolv.conf"]) == ("f", "f")


def test_the_unit_says_what_the_image_says(pack):
    config = {
        "Entrypoint": ["python3", "-m"],
        "Cmd": ["app", "--say", 'a "b" \\ $HOME %n ; \n é', ""],
        "Env": ["PATH=/opt/bin:/usr/bin", "EMPTY=", "A=1 %h $x 'q' \"w\"\tü"],
        "WorkingDir": "/srv/app",
        "StopSignal": "SIGINT",
        "Volumes": {"/data": {}, "/var/lib/x/": {}, "/tmp/y": {}},
        "User": "0:0",
        "Labels": {"x": "y"},
    }
    layer = (entry("usr/bin/python3.13"), link("usr/bin/python3", "python3.13"), link("data", "/srv/data"))
    packed = pack(Image(layers=(layer,), config=config))
    found = unit_of(packed)
    (command,) = found["ExecStart"]
    assert words(command) == ["/usr/bin/python3", "-m", *config["Cmd"]]
    assert [words(each.replace("$", "$$"))[0] for each in found["Environment"]] == ["HOME=/tmp", *config["Env"]]
    assert (found["WorkingDirectory"], found["KillSignal"]) == (["/srv/app"], ["SIGINT"])
    assert found["TemporaryFileSystem"] == ["/srv/data", "/var/lib/x"]
    assert "User" not in found
    with tarfile.open(packed.directory / "root.tar") as archive:
        assert all(archive.getmember(name).isdir() for name in ("srv/app", "srv/data", "var/lib/x"))


def test_what_a_device_makes_of_it(pack, tmp_path):
    packed = pack(Image(config={**RUNS, "Volumes": {"/data": {}}, "WorkingDir": "/app"}))
    told = on_device.Told("kiosk", Path("/opt/hedgerow/applications/kiosk/1.0.0/files"), own_root=True)
    text = on_device.render((packed.directory / "kiosk.service").read_text(), told)
    for line in (
        "RootDirectory=/opt/hedgerow/applications/kiosk/1.0.0/files",
        "MountAPIVFS=yes",
        "BindReadOnlyPaths=-/etc/hosts -/etc/resolv.conf",
        "WorkingDirectory=/app",
        "TemporaryFileSystem=/data:mode=1777,nodev,nosuid,noexec",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "PrivateDevices=yes",
    ):
        assert f"\n{line}\n" in text
    assert "/run/application" not in text
    with pytest.raises(on_device.UnitError, match=r"TemporaryFileSystem= is nothing"):
        on_device.render((packed.directory / "kiosk.service").read_text(), on_device.Told("kiosk", Path("/x")))


@pytest.mark.parametrize(
    "config, says",
    [
        ({}, "starts nothing"),
        ({"Entrypoint": None, "Cmd": []}, "starts nothing"),
        ({"Entrypoint": ["/app/gone"]}, "no /app/gone"),
        ({"Cmd": ["gone"]}, "no gone"),
        ({"Cmd": ["/app/text"]}, "no /app/text that could be started"),
        ({"Cmd": ["/app"]}, "no /app that could be started"),
        ({"Cmd": "/app/run"}, "no list of words"),
        ({**RUNS, "Env": ["NO-NAME=1"]}, "no variable"),
        ({**RUNS, "Env": ["A=\x1b"]}, "no variable"),
        ({**RUNS, "Env": ["A"]}, "no variable"),
        ({**RUNS, "WorkingDir": "app"}, "no absolute path"),
        ({**RUNS, "WorkingDir": "/app/run"}, "no place for a folder"),
        ({**RUNS, "StopSignal": "TERM\nUser=root"}, "no signal"),
        ({**RUNS, "Volumes": ["/x"]}, "no paths"),
        ({**RUNS, "ExposedPorts": {"http": {}}}, "which is no port"),
        ([], "is no object"),
    ],
)
def test_a_configuration_that_starts_nothing_is_told(pack, config, says):
    layer = (oci.RUN, entry("app/text", mode=0o644))
    with pytest.raises(UsageError, match=says) as caught:
        pack(Image(layers=(layer,), document={"config": config}))
    assert caught.value.next_step


@pytest.mark.parametrize(
    "config, rule",
    [
        ({**RUNS, "ExposedPorts": {"9999/tcp": {}}}, "declared-ports"),
        ({**RUNS, "ExposedPorts": {"8090/udp": {}}}, "declared-ports"),
        ({**RUNS, "WorkingDir": "/a b"}, "known-settings"),
        ({**RUNS, "Volumes": {"/": {}}}, "known-settings"),
        ({**RUNS, "Volumes": {"/proc/self": {}}}, "known-settings"),
        ({**RUNS, "Volumes": {"/data:ro": {}}}, "known-settings"),
    ],
)
def test_a_configuration_that_no_device_takes_is_refused(pack, tmp_path, config, rule):
    with pytest.raises(RefusedError, match=f"rule: {rule}"):
        pack(Image(config=config), ports=(Port(8090),))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_too_large_leaves_nothing(pack, tmp_path, monkeypatch):
    from hedgerow.models import oci_layers

    monkeypatch.setattr(oci_layers.Limits.__init__, "__defaults__", (1000, 10, False))
    with pytest.raises(RefusedError, match="image-size"):
        pack(Image())
    assert list((tmp_path / "cache").iterdir()) == []


def test_rights_are_dropped_on_request_alone(pack, tmp_path):
    layer = (oci.RUN, entry("bin/su", mode=0o4755))
    with pytest.raises(RefusedError, match="no-setuid") as caught:
        pack(image(tmp_path / "i.tar", layer))
    assert "--drop-setuid" in caught.value.next_step
    packed = pack(image(tmp_path / "i.tar", layer), drop_setuid=True)
    with tarfile.open(packed.directory / "root.tar") as archive:
        assert archive.getmember("bin/su").mode == 0o755


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="judged by systemd itself")
def test_systemd_finds_it_tight_and_whole(pack, tmp_path):
    packed = pack(
        Image(layers=((entry("bin/sh"),),), config={"Cmd": ["/bin/sh", "-c", "a; b"], "Volumes": {"/data": {}}})
    )
    path = tmp_path / on_device.file_name("kiosk")
    told = on_device.Told("kiosk", tmp_path, (("tcp", 8090),), own_root=True)
    path.write_text(on_device.render((packed.directory / "kiosk.service").read_text(), told))
    for asked in (["security", "--offline=true", "--threshold=25"], ["verify"]):
        done = subprocess.run(["systemd-analyze", *asked, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "systemd warns of it"
