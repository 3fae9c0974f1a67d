"""Layers become one root: changesets, whiteouts, links; and what a layer may not do is refused by name."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from tests.support.oci import entry, folder, hard, image, link, tar

from hedgerow.errors import PublisherError, RefusedError
from hedgerow.models import oci_image, oci_layers, oci_root, oci_tree
from hedgerow.models.oci_layers import Limits
from hedgerow.models.oci_layout import open_layout

BASE = [folder("etc/"), entry("etc/a", "1"), entry("etc/b", "1"), folder("etc/d"), entry("etc/d/c", "1")]


@pytest.fixture
def root(tmp_path):
    """Apply layers; names → content, ``-> target`` or ``/``, as a device gets them."""

    def apply(*layers, limits: Limits | None = None, **fields) -> dict[str, str]:
        path = image(tmp_path / "image.tar", *layers, **fields)
        with open_layout(path) as layout:
            read = oci_image.read(layout)
            with oci_layers.applied(layout, read, tmp_path, limits or Limits()) as tree:
                oci_root.write(tree, tmp_path / "root.tar", str(path))
        with tarfile.open(tmp_path / "root.tar") as archive:
            return {member.name: shown(archive, member) for member in archive}

    return apply


def shown(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "/"
    if member.issym():
        return f"-> {member.linkname}"
    if member.islnk():
        return f"= {member.linkname}"
    return archive.extractfile(member).read().decode()


@pytest.mark.parametrize("kind", ["tar", "tar+gzip", "tar+zstd"])
def test_a_layer_over_another(root, kind):
    """layer.md, "Changeset over existing files": a folder over a folder keeps what is in it, else the new stands."""
    found = root(BASE, [entry("./etc/a", "2"), folder("./etc/"), entry("./etc/d", "file")], kind=kind)
    assert found == {"etc": "/", "etc/a": "2", "etc/b": "1", "etc/d": "file"}


def test_docker_s_names_for_the_same(root):
    assert root(BASE, media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")["etc/a"] == "1"


def test_a_whiteout_takes_away_what_is_below_and_is_not_there_itself(root):
    found = root(BASE, [entry("etc/.wh.d", ""), entry("etc/.wh.b", ""), entry("etc/.wh.never", "")])
    assert found == {"etc": "/", "etc/a": "1"}


def test_a_whiteout_leaves_what_its_own_layer_brings_wherever_it_stands(root):
    new = [
        entry("etc/b", "2"),
        entry("etc/.wh.b", ""),
        folder("etc/d"),
        entry("etc/d/new", "2"),
        entry("etc/.wh.d", ""),
    ]
    assert root(BASE, new) == {"etc": "/", "etc/a": "1", "etc/b": "2", "etc/d": "/", "etc/d/new": "2"}


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_folder_hides_all_that_was_below(root, first):
    """layer.md: both orders are one layer."""
    opaque, new = entry("etc/.wh..wh..opq", ""), [folder("etc/"), folder("etc/d"), entry("etc/d/new", "2")]
    assert root(BASE, [opaque, *new] if first else [*new, opaque]) == {"etc": "/", "etc/d": "/", "etc/d/new": "2"}


def test_the_whole_root_can_be_opaque(root):
    assert root(BASE, [entry(".wh..wh..opq", ""), entry("new", "2")]) == {"new": "2"}


def test_a_removed_file_may_come_again(root):
    assert root(BASE, [entry("etc/.wh.a", "")], [entry("etc/a", "3")])["etc/a"] == "3"


def test_hard_links_stay_one_file(root):
    found = root([entry("bin/a", "x"), hard("bin/b", "bin/a")], [hard("sbin/c", "bin/a")], [entry("bin/b", "new")])
    assert found == {"bin": "/", "bin/a": "x", "bin/b": "new", "sbin": "/", "sbin/c": "= bin/a"}


def test_absolute_links_stay_in_the_root_wherever_that_lies(root):
    found = root([link("bin/sh", "/bin/busybox"), link("etc/mtab", "/proc/mounts"), link("all", "/"), link("x", "/y")])
    assert found["bin/sh"] == "-> ../bin/busybox"
    assert found["etc/mtab"] == "-> ../proc/mounts"
    assert (found["all"], found["x"]) == ("-> .", "-> y")


def test_a_path_through_a_link_of_the_image_is_in_the_image(root):
    """Builders write ``lib/x`` where a lower layer made ``lib`` a link; it stays a link, in and out of this layer."""
    base = [folder("usr/lib"), entry("usr/lib/gone"), link("lib", "usr/lib"), link("far", "/usr")]
    found = root(base, [entry("lib/x", "1"), entry("lib/.wh.gone", ""), entry("far/y", "2")])
    assert found == {
        "far": "-> usr", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/", "usr/lib/x": "1", "usr/y": "2",
    }  # fmt: skip


def test_a_link_that_leads_out_leads_no_file_out(root, tmp_path):
    """What a layer writes through it lands in the tree; the link itself is refused once the root is whole."""
    with pytest.raises(RefusedError, match="rule: stays-inside"):
        root([link("up", "../../..")], [entry(f"up/{tmp_path}/out", "2")])
    assert not (tmp_path / "out").exists()
    assert root([link("up", "../../..")], [entry("up/out", "2")], [entry(".wh.up", "")]) == {"out": "2"}


def test_the_same_bytes_whatever_the_order_owners_and_times(root, tmp_path):
    root([entry("b", "1", mode=0o700), folder("d"), entry("d/x", "2", mode=0o600), hard("d/y", "b")])
    one = (tmp_path / "root.tar").read_bytes()
    others = [folder("d"), entry("d/x", "2", mode=0o640), entry("d/y", "1", mode=0o755), hard("b", "d/y")]
    for number, (info, _) in enumerate(others):
        info.mtime, info.uid, info.uname = 1_700_000_000 + number, 1000 + number, "somebody"
    root(others)
    two = (tmp_path / "root.tar").read_bytes()
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        assert {(each.uid, each.mtime, each.uname) for each in archive} == {(0, 0, "")}
        assert [(each.name, f"{each.mode:o}") for each in archive] == [
            ("b", "755"), ("d", "755"), ("d/x", "644"), ("d/y", "755"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "entries, rule",
    [
        ([entry("../out")], "stays-inside"),
        ([entry("a/../../out")], "stays-inside"),
        ([entry("/etc/passwd")], "stays-inside"),
        ([link("a/out", "../../etc/passwd")], "stays-inside"),
        ([link("s", "a/b"), folder("a/b"), link("d/l", "../s/../../..")], "stays-inside"),
        ([entry("bin/su", mode=0o4755)], "no-setuid"),
        ([entry("bin/wall", mode=0o2755)], "no-setuid"),
        ([entry("a"), entry("b", "", mode=0o4755, kind=tarfile.LNKTYPE, link="a")], "no-setuid"),
        ([entry("bin/ping", pax={"SCHILY.xattr.security.capability": "x"})], "no-capabilities"),
        ([entry("dev/mem", kind=tarfile.CHRTYPE)], "no-devices"),
        ([entry("dev/sda", kind=tarfile.BLKTYPE)], "no-devices"),
        ([entry("run/pipe", kind=tarfile.FIFOTYPE)], "no-devices"),
    ],
)
def test_what_leads_out_or_gains_rights_is_refused(root, tmp_path, entries, rule):
    with pytest.raises(RefusedError, match=f"rule: {rule}") as caught:
        root(entries)
    assert caught.value.exit_code == 3
    assert caught.value.next_step
    assert not Path(tmp_path / "out").exists()


def test_rights_are_dropped_where_one_asks_for_it(root, tmp_path):
    entries = [entry("su", mode=0o6755), entry("ping", pax={"SCHILY.xattr.security.capability": "x"})]
    root(entries, limits=Limits(drop_setuid=True))
    with tarfile.open(tmp_path / "root.tar") as archive:
        assert {(each.mode, *each.pax_headers) for each in archive} == {(0o755,)}
    with pytest.raises(RefusedError, match="no-devices"):
        root([entry("dev/mem", kind=tarfile.CHRTYPE)], limits=Limits(drop_setuid=True))


@pytest.mark.parametrize(
    "layer, says",
    [
        ([entry("a"), entry("a")], "there twice"),
        ([entry("a"), entry("./a")], "there twice"),
        ([entry("a"), entry("a/b")], "below a, which is no folder"),
        ([hard("a", "nothing")], "no file of the image"),
        ([folder("d"), hard("a", "d")], "no file of the image"),
        ([hard("a", "../../etc/passwd")], "no file of the image"),
        ([link("a", "b"), link("b", "a"), entry("a/x")], "circle"),
        ([link("a", "")], "link to nothing"),
        ([folder("etc/.wh.d")], "only whiteouts"),
        ([entry("etc/.wh.d/x")], "only whiteouts"),
        ([entry("etc/.wh.")], "hides no name"),
        ([entry("etc/.wh...")], "hides no name"),
        ([entry("a\nb")], "no path"),
        ([entry("a\udcff")], "no path"),
        ([link("a", "\udcff")], "no path"),
        ([entry("a/" + "b" * 256)], "longer than a name"),
        ([entry("a", kind=b"V")], "neither file, folder nor link"),
        ([entry("a", pax={"x": "y" * 2_000_000})], "header is too long"),
        (tar([entry("a")]) + tar([entry("b")]), "behind its end"),
        (tar([entry("a", "x" * 5000)])[:2048], "unexpected end"),
        (tar([entry("a")])[:1024] + b"broken" * 200, "behind its end"),
        (b"", "empty file"),
        (b"no tar" * 500, "damaged"),
    ],
)
def test_a_layer_that_says_two_things_or_none_is_damaged(root, layer, says):
    with pytest.raises(PublisherError, match=says) as caught:
        root(BASE if isinstance(layer, bytes) else [], layer)
    assert "layer" in caught.value.where


def test_a_link_in_a_circle_is_told(root):
    assert root([link("X11", ".")]) == {"X11": "-> ."}
    for entries in ([link("a", "a")], [link("a", "b"), link("b", "/a")]):
        with pytest.raises(PublisherError, match="leads in a circle of links"):
            root(entries)


def test_a_bomb_is_cut_off_before_it_has_grown(root, tmp_path):
    """100 MB of nothing are 100 KB of gzip, a few KB of zstd."""
    bomb = [entry("zeros", bytes(100_000_000))]
    for kind in ("tar+gzip", "tar+zstd"):
        with pytest.raises(RefusedError, match="image-size"):
            root(bomb, limits=Limits(bytes=1_000_000), kind=kind)
    with pytest.raises(RefusedError, match="image-size"):
        root([entry("a", bytes(600_000))], [entry("b", bytes(600_000))], limits=Limits(bytes=1_000_000))
    with pytest.raises(RefusedError, match="more files"):
        root([entry(str(number)) for number in range(20)], limits=Limits(entries=19))
    with pytest.raises(RefusedError, match="image-size"):  # before it is even hashed
        root([entry("a", bytes(600_000))], limits=Limits(bytes=500_000), kind="tar")
    assert not (tmp_path / "root.tar").exists()


def test_a_few_paths_do_not_make_a_million_folders(root, monkeypatch):
    monkeypatch.setattr(oci_tree, "MAX_FOLDERS", 1000)
    with pytest.raises(PublisherError, match="in more folders"):
        root([entry(f"{number}/" + "a/" * 200 + "x") for number in range(6)])
    monkeypatch.setattr(oci_root, "MAX_ENTRIES", 1000)
    with pytest.raises(RefusedError, match="rule: image-size"):
        root([entry(f"{number}/" + "a/" * 200 + "x") for number in range(4)], [entry(str(n)) for n in range(10, 300)])


@pytest.mark.parametrize("kind", ["tar+gzip", "tar+zstd"])
def test_a_cut_off_layer_is_no_shorter_one(root, kind, monkeypatch):
    """The blob is what its name says: what is in it ends too early."""
    from tests.support import oci

    packer = oci.PACKERS[kind]
    monkeypatch.setitem(oci.PACKERS, kind, lambda data: packer(data)[:-12])
    with pytest.raises(PublisherError, match=r"damaged|not what the image's configuration says"):
        root(BASE, kind=kind)


def test_a_layer_that_is_another_is_found_by_its_diff_id(root):
    wrong = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]}}
    with pytest.raises(PublisherError, match="not what the image's configuration says"):
        root(BASE, document=wrong)
