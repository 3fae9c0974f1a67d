"""An application with a root of its own, made of an OCI image: placed whole or not at all, and nothing leads out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.support.oci import RUN, Entry, entry, folder, hard, image, link, tar

from hedgerow.device import application_files
from hedgerow.device.application_files import MARKER
from hedgerow.device.application_switch import Places, Switch
from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest
from hedgerow.registry.manifest import Port

UNIT = "hedgerow-application-kiosk.service"
LAYERS = (
    [entry("bin/busybox", "program"), hard("bin/ls", "bin/busybox"), link("bin/sh", "/bin/busybox"), entry("old")],
    [RUN, entry("etc/secret", "s", mode=0o600), entry(".wh.old", ""), link("etc/mtab", "/proc/mounts")],
)
# What changes something on a disk, as Python announces it before it is done.
STEPS = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.utime",
    "shutil.rmtree",
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "bundles", tmp_path / "root", tmp_path / "run")
    (made.root / "kiosk").mkdir(parents=True)
    made.run.mkdir()
    return made


@pytest.fixture
def staged(places: Places, tmp_path: Path):
    """Pack an image, and have the bundle where ``hedgerow-device stage`` puts it."""

    def stage(version: str = "1.0.0", *layers: list[Entry], machine: str = "arm64", **config: object) -> Path:
        said = Description("kiosk", version, "MIT")
        config = {"Entrypoint": ["/app/run"], "Volumes": {"/data": {}}, "WorkingDir": "/app"} | config
        archive = image(tmp_path / f"{version}.tar", *(layers or LAYERS), config=config, architecture=machine)
        request = ApplicationRequest(archive, said, (Port(8090),), platform=f"linux/{machine}")
        packed = pack_application.pack(request, cache=tmp_path / "packed")
        return Path(shutil.copytree(packed, places.bundles / "kiosk" / version))

    return stage


def ask(places: Places, **request: object) -> dict[str, object]:
    return Switch(places, run=lambda _: (0, ""), answers=lambda *_: True).answer(json.dumps(request))


def seen(folder_: Path) -> dict[str, str]:
    """Every path below with its mode and content."""
    return {
        str(path.relative_to(folder_)): str(path.readlink())
        if path.is_symlink()
        else f"{path.stat().st_mode & 0o7777:o} {'/' if path.is_dir() else path.read_text()}"
        for path in folder_.rglob("*")
    }


def test_placed_as_the_image_says_and_readable_by_whoever_it_runs_as(places, staged):
    staged()
    assert ask(places, place="kiosk", version="1.0.0")["said"] == ""
    home = places.root / "kiosk/1.0.0"
    found = seen(home / "files")
    assert found | {"etc/hosts": "", "etc/resolv.conf": ""} == {
        "app": "755 /", "app/run": "755 #!/bin/sh\n", "bin": "755 /", "bin/busybox": "755 program",
        "bin/ls": "755 program", "bin/sh": "../bin/busybox", "data": "755 /", "dev": "755 /", "etc": "755 /",
        "etc/hosts": "", "etc/mtab": "../proc/mounts", "etc/resolv.conf": "", "etc/secret": "644 s", "proc": "755 /",
        "run": "755 /", "sys": "755 /", "tmp": "755 /", "var": "755 /", "var/tmp": "755 /",
    }  # fmt: skip
    assert (home / "files/bin/ls").stat().st_nlink == 2
    unit = (home / UNIT).read_text()
    assert f"\nRootDirectory={home}/files\n" in unit
    assert "\nTemporaryFileSystem=/data:mode=1777,nodev,nosuid,noexec\n" in unit
    assert json.loads((home / MARKER).read_text()) == {"ports": [["tcp", 8090]]}


@pytest.mark.parametrize(
    "entries, says",
    [
        ([link("a", "/tmp"), entry("a/x")], "before its folder"),
        ([link("a", "../../x")], "outside"),
        ([link("a", "/etc/passwd")], "absolute"),
        ([entry("a/x"), folder("a")], "before its folder"),
        ([entry("a"), entry("a")], "there twice"),
        ([entry("a"), link("a", "b")], "there twice"),
        ([folder("."), entry("./a")], "no path below"),
        ([entry("/a")], "no path below"),
        ([entry("..")], "no path below"),
        ([hard("a", "/etc/passwd")], "no file, folder or link"),
        ([hard("a", "../../../etc/passwd")], "no file, folder or link"),
        ([link("s", "x"), hard("a", "s")], "no file, folder or link"),
        ([entry("a", kind=tarfile.CHRTYPE)], "no file, folder or link"),
        ([entry("a", kind=tarfile.FIFOTYPE)], "no file, folder or link"),
        ([entry(str(number)) for number in range(30)], "more than 29 files"),
    ],
)
def test_a_root_that_packing_never_writes_is_not_placed(places, staged, entries, says, monkeypatch):
    """Whoever asks the switch may have written bundle and manifest."""
    bundle = staged()
    monkeypatch.setattr(application_files, "MAX_ENTRIES", 29)
    replace(bundle, "root.tar", tar(entries))
    done = ask(places, place="kiosk", version="1.0.0")
    assert (done["done"], says in done["said"]) == (False, True), done["said"]
    assert not (places.root / "kiosk/1.0.0").exists()


@pytest.mark.parametrize("path", ["../1.0.0/root.tar", "..", "gone.tar"])
def test_a_root_lies_at_the_top_of_its_bundle(places, staged, path):
    bundle = staged()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["application"]["root"] = path
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert not ask(places, place="kiosk", version="1.0.0")["done"]


def test_bits_that_gain_rights_do_not_come_through(places, staged):
    bundle = staged()
    replace(bundle, "root.tar", tar([entry("su", mode=0o6777)]))
    assert ask(places, place="kiosk", version="1.0.0")["done"]
    assert seen(places.root / "kiosk/1.0.0/files") == {"su": "755 x"}


def replace(bundle: Path, name: str, data: bytes) -> None:
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"] == name:
            file["sha256"] = hashlib.sha256(data).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


# -- kill -9 -------------------------------------------------------------------


def in_a_child(places: Places, kill_at: int | None, **request: object) -> int:
    """Ask in a process that is killed before its step ``kill_at``; -9 then, else how many steps there were."""
    steps = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        writes = event == "open" and any(letter in str(arguments[1]) for letter in "wx")
        if writes or event in STEPS:
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        os._exit(min(steps, 250) if ask(places, **request)["done"] else 255)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.slow
def test_killed_while_it_is_placed(places, staged):
    staged()
    home = places.root / "kiosk"
    steps = in_a_child(places, None, place="kiosk", version="1.0.0")
    assert 30 < steps < 250, "nothing was counted, so nothing would be killed"
    whole = seen(home / "1.0.0")
    absent = 0
    for step in range(1, steps + 1):
        shutil.rmtree(home)
        home.mkdir()
        assert in_a_child(places, step, place="kiosk", version="1.0.0") == -9
        if (home / "1.0.0").exists():
            assert seen(home / "1.0.0") == whole, step
        else:
            absent += 1
        assert ask(places, place="kiosk", version="1.0.0")["done"], step
        assert (seen(home / "1.0.0"), [path.name for path in home.iterdir()]) == (whole, ["1.0.0"]), step
    assert absent > 20


@pytest.mark.slow
def test_killed_while_an_old_one_is_taken_away(places, staged):
    """What is half gone never looks whole, and goes with the next that is placed."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        staged(version)
    home = places.root / "kiosk"
    assert ask(places, place="kiosk", version="1.0.0")["done"]
    whole = seen(home / "1.0.0")
    steps = in_a_child(places, None, place="kiosk", version="1.1.0")
    assert not (home / "1.0.0").exists()
    half = 0
    for step in range(1, steps + 1):
        shutil.rmtree(home)
        home.mkdir()
        assert ask(places, place="kiosk", version="1.0.0")["done"]
        assert in_a_child(places, step, place="kiosk", version="1.1.0") == -9
        if (home / "1.0.0" / MARKER).exists():
            assert seen(home / "1.0.0") == whole, step
        half += any(path.name.endswith(".gone") for path in home.iterdir())
        assert ask(places, place="kiosk", version="1.2.0")["done"], step
        assert [path.name for path in home.iterdir()] == ["1.2.0"], step
    assert half > 5, "no kill came while it was taken away"


# -- for real, as far as a machine without systemd can ---------------------------


def libraries(program: str) -> list[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in re.findall(r"(/\S+)", said)]


def can_change_root() -> bool:
    command = ["unshare", "--mount", "--pid", "--fork", "true"]
    tools = all(shutil.which(name) for name in ("unshare", "chroot", "ldd"))
    return os.geteuid() == 0 and tools and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_change_root(), reason="needs root, unshare and chroot")
def test_an_image_of_this_machine_s_shell_runs_in_its_root(places, staged):
    """What the unit says is started where the unit says it: by ``chroot``, as nobody, in a mount namespace."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        pytest.skip("no image is for this machine")
    files = [Path("/bin/sh"), *libraries("/bin/sh")]
    layer = [entry(str(path).lstrip("/"), path.read_bytes()) for path in files] + [entry("gone", "x")]
    script = '[ ! -e gone ] && [ ! -e /gone ] && echo "$GREETING" "$1" "$(read x < /app/text; echo $x)" /*'
    staged(
        "1.0.0",
        layer,
        [entry("app/text", "from a file", mode=0o600), entry(".wh.gone", ""), link("bin/ash", "/bin/sh")],
        machine=machine,
        Entrypoint=["ash", "-c", script, "kiosk"],
        Cmd=['50% of $HOME; "done"'],
        Env=["GREETING=hello 100%", "PATH=/bin"],
    )
    assert ask(places, place="kiosk", version="1.0.0")["said"] == ""
    unit = [line.partition("=") for line in (places.root / "kiosk/1.0.0" / UNIT).read_text().splitlines()]
    told = {key: value for key, _, value in unit}
    environment = [as_systemd_reads(value)[0] for key, _, value in unit if key == "Environment"]
    words = [word.replace("$$", "$") for word in as_systemd_reads(told["ExecStart"])]
    root = [str(shutil.which("chroot")), "--userspec=65534:65534", told["RootDirectory"]]
    command = ["unshare", "--mount", "--pid", "--fork", "env", "-i", *environment, *root, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    # /* is what a process in this root sees, and no more.
    top = sorted(
        {"/app", "/bin", "/data", "/dev", "/etc", "/proc", "/run", "/sys", "/tmp", "/var"}
        | {f"/{path.parts[1]}" for path in files}
    )
    assert done.stdout == f'hello 100% 50% of $HOME; "done" from a file {" ".join(top)}\n', done


def as_systemd_reads(text: str) -> list[str]:
    r"""Words in quotes, ``\xNN`` and ``%%``; ``$$`` is of commands alone."""
    found = shlex.split(text.replace("\\", "\\\\"))
    return [re.sub(r"\\x(..)", lambda byte: chr(int(byte[1], 16)), word).replace("%%", "%") for word in found]
