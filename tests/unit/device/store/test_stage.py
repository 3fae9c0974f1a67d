"""From one version to the next: what comes over the line, what is taken from here, and what is there in the end."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.unit.device.store.conftest import NEW, OLD, debris, whole

from hedgerow.device.store import receive, written
from hedgerow.device.store.config import StoreConfig, Window
from hedgerow.device.store.stage import look, stage
from hedgerow.errors import DeviceError, NetworkError, PartialError, PublisherError, RefusedError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec


@pytest.fixture(autouse=True)
def _quick_line(monkeypatch):
    """A machine that is busy may make any line look slow; what a slow line costs is looked at in test_receive."""
    monkeypatch.setattr(receive, "SPOOL_AFTER_S", 1e9)


@pytest.fixture
def get(device, releases):
    def call(reference=NEW, device=device, **options):
        return stage(releases.registry, releases.registry, reference, device, **options)

    return call


def test_a_first_version_comes_whole(get, device, releases):
    staged = get(OLD)
    assert whole(device, OLD)
    assert (staged.changed, staged.new_bytes) == (True, staged.by["chunk"])
    assert staged.fetched == sum(length for _, _, length in releases.registry.asked)
    assert staged.requests == len(releases.registry.asked) == 1, (
        "one release is one pack, and near frames come together"
    )
    assert debris(device) == []


def test_the_next_version_takes_what_is_here_and_patches_what_changed_a_little(get, device):
    first = get(OLD)
    staged = get(NEW)
    assert whole(device, NEW)
    assert whole(device, OLD)
    assert staged.by["here"] > 1_600_000, "the body, the header, the license"
    assert staged.by["patch"] >= 300_000
    assert 250_000 <= staged.by["chunk"] < 300_000
    assert staged.fetched < 0.2 * first.fetched
    assert staged.notes == ()
    assert debris(device) == []


def test_a_version_that_is_here_is_not_fetched_again(get, device, releases):
    get(OLD)
    releases.registry.asked.clear()
    again = get(OLD)
    assert (again.changed, again.fetched, again.written, releases.registry.asked) == (False, 0, 0, [])


def test_a_version_that_came_without_a_recipe_is_cut_here(get, device, releases):
    get(OLD)
    device.layout.recipe(OLD).unlink()
    assert get(NEW).by["here"] > 1_600_000
    assert device.layout.recipe(OLD).is_file(), "and is not cut a second time"


def test_a_recipe_that_lies_here_and_is_wrong_costs_bytes_and_nothing_else(get, device, releases):
    get(OLD)
    device.layout.recipe(OLD).write_bytes(b"{}")
    get(NEW)
    assert whole(device, NEW)


def test_the_servers_user_can_read_it_whatever_the_umask(get, device):
    before = os.umask(0o077)
    try:
        get(NEW)
    finally:
        os.umask(before)
    for path in device.layout.home("assistant").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_looking_changes_nothing_and_tells_what_staging_will_do(get, device, releases):
    get(OLD)
    before = sorted(device.layout.models_dir.rglob("*"))
    plan = look(releases.registry, releases.registry, NEW, device)
    assert sorted(device.layout.models_dir.rglob("*")) == before
    staged = get(NEW)
    assert plan.bytes_by() == staged.by
    assert plan.written == staged.written


# -- what lies here is not what it was ----------------------------------------------


def damage(device, reference, *, at, path="model.safetensors"):
    with (device.layout.version(reference) / path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_damaged_bytes_are_noticed_and_fetched_instead(get, device):
    get(OLD)
    damage(device, OLD, at=500_000)
    staged = get(NEW)
    assert whole(device, NEW)
    assert staged.by["chunk"] > 1_000_000, "the block that was damaged"
    assert "model.safetensors of assistant@1.0.0 has other bytes" in staged.notes[0]


def test_a_patch_is_not_applied_to_damaged_bytes(get, device):
    get(OLD)
    damage(device, OLD, at=1_700_000)
    staged = get(NEW)
    assert whole(device, NEW)
    assert staged.by["patch"] == 0
    assert "Mend it: hedgerow-device stage assistant@1.0.0" in staged.notes[0]


def test_a_damaged_version_is_mended_from_what_is_left(get, device):
    get(OLD)
    get(NEW)
    damage(device, OLD, at=500_000)
    staged = get(OLD)
    assert staged.changed
    assert whole(device, OLD)
    assert staged.fetched < 1_000_000, "the body lies in the new version"
    assert debris(device) == []


# -- what is published is not what was signed -----------------------------------------


def packs_of(releases):
    return sorted((releases.registry.root / "targets" / "packs").rglob("*/*"))


def test_an_altered_pack_is_refused_and_what_was_there_stays(get, device, releases):
    get(OLD)
    for pack in packs_of(releases):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2 :: 1000] = bytes(byte ^ 1 for byte in data[len(data) // 2 :: 1000])
        pack.write_bytes(data)
    with pytest.raises(PublisherError):
        get(NEW)
    assert whole(device, OLD)
    assert not device.layout.version(NEW).exists()


def test_a_pack_that_is_missing(get, releases):
    for pack in packs_of(releases):
        pack.unlink()
    with pytest.raises(PublisherError, match="not in the registry") as caught:
        get(OLD)
    assert "packs/" in caught.value.where


def test_a_pack_that_is_truncated(get, releases):
    for pack in packs_of(releases):
        pack.write_bytes(pack.read_bytes()[:1000])
    with pytest.raises(PublisherError, match="truncated: it ends at byte 1000"):
        get(OLD)


def test_a_recipe_of_another_bundle_is_refused(get, device, releases):
    target = releases.registry.root / "targets" / "models" / "assistant"
    (target / "1.1.0" / "transfer.json.zst").write_bytes((target / "1.0.0" / "transfer.json.zst").read_bytes())
    with pytest.raises(PublisherError, match=r"describes assistant@1\.0\.0"):
        get(NEW)
    assert not device.layout.version(NEW).exists()


def test_chunks_that_are_right_and_make_another_file(get, device, releases):
    """A recipe and a manifest that disagree about a file as a whole: found after the last chunk, and not kept."""
    path = releases.registry.root / "targets" / "models" / "assistant" / "1.0.0"
    recipe = codec.decode((path / "transfer.json.zst").read_bytes(), where="")
    manifest = (path / manifests.FILE_NAME).read_text()
    wrong = "0" * 64
    [file] = [file for file in recipe.files if file.path == "LICENSE"]
    (path / manifests.FILE_NAME).write_text(manifest.replace(file.sha256, wrong))
    data = codec.to_json(recipe).replace(
        f'"sha256":"{file.sha256}","size"'.encode(), f'"sha256":"{wrong}","size"'.encode()
    )
    (path / "transfer.json.zst").write_bytes(data)
    with pytest.raises(PublisherError, match="LICENSE was altered"):
        get(OLD)
    assert debris(device) == []


# -- a line that breaks ------------------------------------------------------------------


def test_a_registry_that_is_gone_in_the_middle(get, device, releases):
    releases.registry.budget = 700_000
    with pytest.raises(NetworkError):
        get(OLD)
    assert not device.layout.version(OLD).exists()
    releases.registry.budget = None
    releases.registry.asked.clear()
    staged = get(OLD)
    assert whole(device, OLD)
    assert sum(length for _, _, length in releases.registry.asked) < staged.by["chunk"] + staged.by["done"] - 690_000
    assert debris(device) == []


@pytest.mark.parametrize("cut", [0, 1, 4095, 65_536, 262_143, 1_048_577])
def test_no_byte_comes_twice_wherever_the_line_was_cut(cut, get, device, releases):
    get_all = stage_elsewhere(releases, device)
    releases.registry.asked.clear()
    releases.registry.budget = cut
    with pytest.raises(NetworkError):
        get(OLD)
    releases.registry.budget = None
    releases.registry.asked.clear()
    staged = get(OLD)
    assert whole(device, OLD)
    assert get_all - cut <= staged.fetched <= get_all - cut + 64, "the last byte of a tail is fetched again, no more"


def stage_elsewhere(releases, device):
    """Bytes that a first fetch takes."""
    other = replace(
        device,
        places=replace(device.places, layout=replace(device.layout, models_dir=device.layout.models_dir / "elsewhere")),
    )
    other.layout.models_dir.mkdir()
    return stage(releases.registry, releases.registry, OLD, other).fetched


def test_a_tail_that_a_power_cut_has_damaged_is_thrown_away(get, device, releases):
    releases.registry.budget = 700_000
    with pytest.raises(NetworkError):
        get(OLD)
    [tail] = device.layout.partial(OLD).glob("tail-*")
    tail.write_bytes(bytes(tail.stat().st_size))
    releases.registry.budget = None
    get(OLD)
    assert whole(device, OLD)
    assert debris(device) == []


def test_what_an_unfinished_download_has_serves_another_version(get, device, releases):
    releases.registry.budget = 1_500_000
    with pytest.raises(NetworkError):
        get(OLD)
    releases.registry.budget = None
    staged = get(NEW)
    assert staged.by["here"] >= 1 << 20, "a block of the body lies in the download of the old version"
    assert staged.notes == (), "what is missing there is no damage"
    assert whole(device, NEW)
    get(NEW)
    assert debris(device) == [], "the download of the old version was overtaken"


# -- when, how much, how fast ------------------------------------------------------------

NIGHT = Window(from_="22:00", to="05:00")


def at(device, hour, **config):
    return replace(
        device,
        config=StoreConfig(window=NIGHT, **config),
        now=lambda: datetime(2026, 11, 22, hour, 30, tzinfo=UTC),
    )


def test_outside_of_the_window_nothing_is_fetched(get, device, releases):
    with pytest.raises(RefusedError, match="opens at 2026-11-22 22:00 UTC") as caught:
        get(OLD, device=at(device, 12))
    assert "or at once: hedgerow-device stage NAME@VERSION" in caught.value.next_step
    assert releases.registry.asked == []
    assert get(OLD, device=at(device, 23)).changed
    assert get(NEW, device=at(device, 12), at_once=True).changed


def test_a_window_that_closes_leaves_what_came(get, device, releases, monkeypatch):
    monkeypatch.setattr("hedgerow.device.store.receive.SPAN", 1 << 20)
    times = iter([4, 4, 4, 12, 12, 12])
    device = replace(at(device, 4), now=lambda: datetime(2026, 11, 22, next(times), 30, tzinfo=UTC))
    with pytest.raises(PartialError, match="not the hour"):
        get(OLD, device=device)
    fetched = sum(length for _, _, length in releases.registry.asked)
    assert fetched > 0
    releases.registry.asked.clear()
    staged = get(OLD, at_once=True)
    assert staged.by["done"] > 0
    assert whole(device, OLD)


def test_no_space_is_said_before_a_byte_is_fetched(get, device, releases, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2 << 20}))
    with pytest.raises(DeviceError, match=r"no space for assistant@1\.0\.0: it needs 4 MB more .*, 2 MB are free"):
        get(OLD)
    assert releases.registry.asked == []


def test_written_bytes_are_counted(get, device):
    first, second = get(OLD), get(NEW)
    total = written.read(device.layout.written)
    assert first.written == first.by["chunk"]
    assert second.written == sum(second.by.values()), "every byte once, whatever it is made from"
    assert total.bytes == first.written + second.written == sum(total.by.values())


def test_a_reference_that_the_registry_does_not_have(get, device):
    with pytest.raises(RefusedError, match="has no"):
        get(Reference("assistant", "9.9.9"))
    assert debris(device) == []
