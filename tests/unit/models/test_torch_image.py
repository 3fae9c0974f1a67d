"""PyTorch's container: its lock, what it is made from, and what a run of it may do. Podman is a stand-in here."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from hedgerow.errors import MachineError, UsageError
from hedgerow.models import torch_image, torch_worker
from hedgerow.paths import repository_root
from hedgerow.runtime import lock


def test_the_lock_has_pytorch_without_cuda():
    locked = {entry.name: entry for entry in torch_image._locked()}
    assert locked["torch"].requirement.endswith("+cpu")
    assert locked["torch"].hashes
    assert not [name for name in locked if name.startswith(("nvidia", "cuda", "triton"))]
    assert torch_image.locked_versions(torch_worker.TOOLS).keys() == set(torch_worker.TOOLS)
    with pytest.raises(UsageError, match="no tensorflow"):
        torch_image.locked_versions(["tensorflow"])
    # One environment may have both, so a version in two locks is the same one.
    text = (repository_root() / "requirements/dev.txt").read_text()
    lock.union({"torch": list(locked.values()), "dev": lock.parse(text, torch_image.target(), where="dev")})


def test_a_run_in_the_container_may_do_little(tmp_path):
    words = torch_image.run_words("image:1", "run-1", tmp_path / "asked", tmp_path / "answered", 90)
    flags = words[: words.index("image:1")]
    for flag in ("--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--rm"):
        assert flag in flags
    assert "--user=65534:65534" in flags
    assert "--name=run-1" in flags
    # Later than whoever waits for it.
    assert f"--timeout={90 + torch_image.GRACE_S}" in flags
    # Where root has no CAP_SYS_RESOURCE, crun cannot make a group; without one, podman shows the machine's.
    assert {"--cgroups=disabled", "--security-opt=mask=/sys/fs/cgroup"} <= set(flags)
    volumes = [flag.removeprefix("--volume=") for flag in flags if flag.startswith("--volume=")]
    assert [volume.rsplit(":", 1)[1] for volume in volumes] == ["ro", "rw", "ro"]
    assert volumes[0] == f"{tmp_path}/asked:/asked:ro"
    assert not [flag for flag in flags if flag.startswith(("--privileged", "--device", "--env=HEDGEROW"))]
    assert words[-3:] == ["/worker.py", "/asked", "/answered"]


def test_the_image_is_named_by_what_it_is_made_from(monkeypatch):
    locked = torch_image._locked()
    assert torch_image.digest(locked) == torch_image.digest(locked)
    assert torch_image.digest(locked[1:]) != torch_image.digest(locked)
    before = torch_image.digest(locked)
    monkeypatch.setattr(torch_image, "PACKAGES", ("python3",))
    assert torch_image.digest(locked) != before


class Podman:
    """A stand-in that has ``images`` and notes what it is told; what it is told to run fails where ``broken``."""

    def __init__(self, *images, broken=False):
        self.images, self.broken, self.seen = set(images), broken, []

    def run(self, *args, **_):
        self.seen.append([str(arg) for arg in args])
        if args[0] == "run" and self.broken:
            raise MachineError("podman run failed")
        if args[0] in ("import", "commit"):
            self.images.add(args[-1])
        missing = args[:2] == ("image", "exists") and args[2] not in self.images
        return subprocess.CompletedProcess(args, int(missing), "", "")

    def told(self):
        return [words[0] for words in self.seen]

    def command(self, *args):
        return ["podman", *map(str, args)]

    def environment(self):
        return dict.fromkeys(("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "TMPDIR"), "/somewhere")

    def session(self):
        return contextlib.nullcontext()

    def release(self):
        self.seen.append(["release"])


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    """A Debian and wheels that are there at once."""
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    monkeypatch.setattr(torch_image, "_run_mmdebstrap", lambda words: Path(words[-1]).write_bytes(b"tar"))
    monkeypatch.setattr(torch_image.wheelhouse, "dependencies", lambda *_: [wheel])


def test_the_image_is_made_of_debian_and_wheels_alone(no_debian, tmp_path):
    words = torch_image.bootstrap_words(tmp_path / "debian.tar")
    assert words[0] == "mmdebstrap"
    assert words[-2:] == ["bookworm", str(tmp_path / "debian.tar")]
    assert "--no-index" in torch_image._SETUP
    assert "--require-hashes" in torch_image._SETUP
    podman, said = Podman(), []
    name = torch_image.ensure(podman, tmp_path / "images", said.append)
    assert name == f"localhost/hedgerow-torch:{torch_image.digest(torch_image._locked())}"
    assert podman.told() == ["image", "image", "import", "rm", "run", "commit", "rm"]
    made_by = podman.seen[4]
    assert {"--network=none", "--cap-drop=all", "--cgroups=disabled"} <= set(made_by)
    assert made_by[-4:-2] == [f"{name}-base", "sh"]
    assert podman.seen[5][-1] == name
    assert len(said) == 1
    assert torch_image.ensure(podman, tmp_path / "images", said.append) == name
    assert len(said) == 1


def test_a_build_that_failed_goes_on_from_its_debian(no_debian, tmp_path):
    podman = Podman(broken=True)
    with pytest.raises(MachineError):
        torch_image.ensure(podman, tmp_path / "images", print)
    assert podman.told()[-1] == "rm"
    podman.broken, podman.seen = False, []
    torch_image.ensure(podman, tmp_path / "images", print)
    assert "import" not in podman.told()
    assert "commit" in podman.told()


def test_a_container_ends_with_the_command_that_began_it(monkeypatch, tmp_path):
    podman = Podman(f"{torch_image.REPOSITORY}:{torch_image.digest(torch_image._locked())}")
    monkeypatch.setattr(torch_image, "Podman", lambda _: podman)
    monkeypatch.setattr(torch_image, "_check_machine", lambda: None)
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    with torch_image.command(say=print) as words:
        (name,) = (word for word in words(tmp_path, tmp_path) if word.startswith("--name="))
    assert podman.told() == ["image", "rm", "release"]
    assert podman.seen[1][-1] == name.removeprefix("--name=")
    assert "--force" in podman.seen[1]
    podman.seen = []
    with pytest.raises(KeyboardInterrupt), torch_image.command(say=print):
        raise KeyboardInterrupt
    assert podman.told() == ["image", "rm", "release"]


def test_a_container_needs_root_and_programs(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="root"), torch_image.command(say=print):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(torch_image.shutil, "which", lambda program: None if program == "mmdebstrap" else program)
    with pytest.raises(MachineError, match="mmdebstrap is not installed"), torch_image.command(say=print):
        pass
