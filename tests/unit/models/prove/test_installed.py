"""What is installed in an application's archive, as a bill of materials lists it and advisories are asked about it."""

import io
import json
import tarfile
from dataclasses import replace
from datetime import date

import pytest

from hedgerow.errors import PublisherError, RefusedError
from hedgerow.models import proof
from hedgerow.models.proof import contents, installed, sbom, versions, vulnerabilities
from hedgerow.models.proof.component import Component
from hedgerow.registry import bundle, manifest

TODAY = date(2026, 11, 20)
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'NAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION="24.04.1 LTS (Noble Numbat)"\nID=ubuntu\n'
ALPINE = '# no comment\nNAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.3\n'
RASPBIAN = "ID=raspbian\nVERSION_ID='12'\n"
DPKG = """\
Package: libc6
Status: install ok installed
Architecture: arm64
Source: glibc
Version: 2.36-9+deb12u9
Description: GNU C Library: Shared libraries
 Version: 1 is what a description may say
 .
 Package: something-else

Package: libgcc-s1
Status: install ok installed
Architecture: arm64
Source: gcc-12 (12.2.0-14+deb12u1)
Version: 12.2.0-14

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1.0
"""
APK = """\
C:Q1Deb0jNytkrjPW4N/eKLZ43BwOlw=
P:ssl_client
V:1.36.1-r29
A:aarch64
L:GPL-2.0-only
o:busybox
F:usr/bin
R:ssl_client

P:py3-six
V:1.16.0-r9
A:aarch64
L:MIT
F:usr/lib/python3.12/site-packages/six-1.16.0.dist-info
R:METADATA
a:0:0:644
V:is no version here
"""


def metadata(name, version, **fields):
    more = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}\nWhat it is for."


@pytest.fixture
def archive(tmp_path):
    """``archive({path: text, …})`` → a tar with these files and a link to nothing."""

    def write(files, name="root.tar"):
        (tmp_path / "bundle").mkdir(exist_ok=True)
        path = tmp_path / "bundle" / name
        with tarfile.open(path, "w") as tar:
            link = tarfile.TarInfo("etc/os-release.bak")
            link.type, link.linkname = tarfile.SYMTYPE, "../nothing"
            tar.addfile(link)
            for each, text in files.items():
                entry = tarfile.TarInfo(each)
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        return path

    return write


def seen(path):
    found = installed.packages(path, "root.tar")
    return {each.name: (each.version, each.ecosystem, each.package, each.source_version) for each in found}


def test_debians_packages_by_their_source(archive):
    path = archive({"etc/os-release": DEBIAN, "var/lib/dpkg/status": DPKG})
    assert seen(path) == {
        "libc6": ("2.36-9+deb12u9", "Debian:12", "glibc", "2.36-9+deb12u9"),
        "libgcc-s1": ("12.2.0-14", "Debian:12", "gcc-12", "12.2.0-14+deb12u1"),
    }
    urls = [each.purl for each in installed.packages(path, "root.tar")]
    assert urls[0] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=arm64&distro=debian-12"


def test_an_image_without_dpkg_lists_what_is_there(archive):
    one = "Package: base-files\nVersion: 12.4+deb12u8\nArchitecture: arm64\n"
    files = {"usr/lib/os-release": DEBIAN, "var/lib/dpkg/status.d/base-files": one}
    assert seen(archive(files)) == {"base-files": ("12.4+deb12u8", "Debian:12", "base-files", "12.4+deb12u8")}


def test_alpines_packages_and_no_python_of_theirs_twice(archive):
    own = "opt/app/lib/python3.12/site-packages/six-1.17.0.dist-info/METADATA"
    theirs = "usr/lib/python3.12/site-packages/six-1.16.0.dist-info/METADATA"
    files = {"etc/os-release": ALPINE, "lib/apk/db/installed": APK}
    files |= {own: metadata("six", "1.17.0"), theirs: metadata("six", "1.16.0")}
    path = archive(files)
    assert seen(path) == {
        "ssl_client": ("1.36.1-r29", "Alpine:v3.20", "busybox", None),
        "py3-six": ("1.16.0-r9", "Alpine:v3.20", "py3-six", None),
        "six": ("1.17.0", "PyPI", "six", None),
    }
    first = installed.packages(path, "root.tar")[0]
    assert first.purl == "pkg:apk/alpine/ssl_client@1.36.1-r29?arch=aarch64&distro=alpine-3.20.3"
    assert first.license == "GPL-2.0-only"


def test_pythons_packages_of_debian_are_debians(archive):
    """Debian mends without a new upstream version: by Python's advisories they would be vulnerable for ever."""
    files = {
        "usr/lib/python3/dist-packages/requests-2.28.1.dist-info/METADATA": metadata("requests", "2.28.1"),
        "usr/local/lib/python3.11/dist-packages/Flask-3.0.dist-info/METADATA": metadata("Flask", "3.0", License="BSD"),
        "srv/fixture/broken.dist-info/METADATA": "Name: without-a-version\n",
    }
    assert seen(archive(files)) == {"Flask": ("3.0", "PyPI", "flask", None)}


@pytest.mark.parametrize(
    "release, ecosystem",
    [
        (DEBIAN, "Debian:12"),
        (UBUNTU, "Ubuntu:24.04:LTS"),
        (UBUNTU.replace(" LTS", ""), "Ubuntu:24.04"),
        (RASPBIAN, None),
        ("ID=debian\n", None),
        ("", None),
    ],
)
def test_the_distribution_says_whose_advisories_count(archive, release, ecosystem):
    files = {"var/lib/dpkg/status": DPKG} | ({"etc/os-release": release} if release else {})
    assert {each[1] for each in seen(archive(files)).values()} == {ecosystem}


@pytest.mark.parametrize(
    "path, text",
    [
        ("var/lib/dpkg/status", "Package: no-version\nStatus: install ok installed\n"),
        ("var/lib/dpkg/status", "Package: UPPER/CASE\nVersion: 1\n"),
        ("lib/apk/db/installed", "P:-dash\nV:1\n"),
        ("lib/apk/db/installed", "P:no-version\n"),
    ],
)
def test_a_damaged_database_is_said(archive, path, text):
    with pytest.raises(PublisherError, match="without a proper name and version"):
        installed.packages(archive({path: text}), "root.tar")


def test_a_database_that_is_too_large_is_refused(archive, monkeypatch):
    monkeypatch.setattr(installed, "_MAX_DATABASE", 10)
    with pytest.raises(PublisherError, match="bytes; 10 are allowed"):
        installed.packages(archive({"var/lib/dpkg/status": DPKG}), "root.tar")


@pytest.mark.parametrize("data", [b"", b"anything", b"\x1f\x8b damaged"])
def test_what_is_no_archive_is_not_looked_into(tmp_path, data):
    (tmp_path / "root.tar").write_bytes(data)
    assert installed.packages(tmp_path / "root.tar", "root.tar") is None


@pytest.mark.parametrize(
    "ecosystem, version, fixed, inside",
    [
        ("Debian:12", "2.36-9+deb12u9", "2.36-9+deb12u10", True),
        ("Debian:12", "2.36-9+deb12u10", "2.36-9+deb12u10", False),
        ("Debian:12", "1:1.0-1", "9.0-1", False),
        ("Debian:12", "1.0~rc1-1", "1.0-1", True),
        ("Ubuntu:24.04:LTS", "2.39-0ubuntu8.3", "2.39-0ubuntu8.10", True),
        ("Alpine:v3.20", "1.36.1-r9", "1.36.1-r10", True),
        ("Alpine:v3.20", "1.36.1-r10", "1.36.1-r10", False),
        ("Alpine:v3.20", "1.2.4_git20230717-r4", "1.2.4-r1", False),
        ("Alpine:v3.20", "1.2.4_git20230717-r4", "1.2.4_git20230717-r5", True),
        ("Alpine:v3.20", "1.3_rc1-r0", "1.3-r0", True),
        ("Alpine:v3.20", "no version", "1", True),
        ("Somebody's", "1", "1", True),
    ],
)
def test_versions_are_ordered_as_their_ecosystem_orders_them(ecosystem, version, fixed, inside):
    events = [{"introduced": "0"}, {"fixed": fixed}]
    assert versions.affects({"ranges": [{"type": "ECOSYSTEM", "events": events}]}, version, ecosystem) is inside


@pytest.fixture
def bundled(archive):
    """``bundled({path: text, …})`` → a bundle's folder with ``root.tar``."""

    def make(files):
        folder = archive(files).parent
        (folder / "gate.service").write_text("[Service]\nExecStart=/gate\n")
        document = manifest.Manifest(
            schema=manifest.NEWEST, name="gate", version="1.0.0", format="unit-root", license="MIT",
            kind="application", files=bundle.describe_files(folder), requires=manifest.Requires(1),
            application=manifest.Application("dynamic", unit="gate.service", root="root.tar"),
            provenance=manifest.Provenance((manifest.Source("OCI image"),), "a test", {}),
        )  # fmt: skip
        (folder / "manifest.json").write_bytes(manifest.encode(document))
        return folder

    return make


@pytest.fixture
def database(tmp_path):
    """``database((ecosystem, name, fixed), …)`` → folder of OSV files."""

    def write(*found):
        (tmp_path / "osv").mkdir(exist_ok=True)
        for number, (ecosystem, name, fixed) in enumerate(found):
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]
            affected = [{"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}]
            said = {"id": f"DSA-{number}", "modified": "2026-11-10T00:00:00Z", "upstream": [f"CVE-2026-{number}"]}
            (tmp_path / "osv" / f"{ecosystem}-{number}.json").write_text(json.dumps(said | {"affected": affected}))
        return tmp_path / "osv"

    return write


IMAGE = {"etc/os-release": DEBIAN, "var/lib/dpkg/status": DPKG, "srv/x.dist-info/METADATA": metadata("X", "1.0")}


def test_the_bill_of_materials_names_what_is_inside(bundled):
    folder = bundled(IMAGE)
    checked = proof.prove(folder, today=TODAY, advisories=[])
    assert any("root.tar: what no package of Debian, Alpine or Python brought" in each for each in checked.remarks)
    bill = json.loads((folder / sbom.FILE_NAME).read_bytes())
    listed = {each["name"]: each for each in bill["components"]}
    assert set(listed) == {"root.tar", "gate.service", "libc6", "libgcc-s1", "X", "OCI image"}
    assert listed["libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    assert {"name": "hedgerow:within", "value": "root.tar"} in listed["libc6"]["properties"]
    references = {each["bom-ref"] for each in bill["components"]}
    assert len(references) == len(bill["components"])
    assert listed["X"]["bom-ref"] in bill["dependencies"][0]["dependsOn"]
    assert proof.check(folder, today=TODAY).bundle.sha256 == checked.bundle.sha256


def test_what_is_vulnerable_in_an_image_refuses_it(bundled, database):
    folder = bundled(IMAGE)
    known = database(("Debian:12", "glibc", "2.36-9+deb12u10"), ("PyPI", "other", "1"))
    with pytest.raises(RefusedError, match=r"libc6 2\.36-9\+deb12u9 has DSA-0 .*fixed in 2\.36-9\+deb12u10"):
        proof.prove(folder, today=TODAY, advisories=[known])
    # By the name that everybody knows it by.
    checked = proof.prove(folder, today=TODAY, advisories=[known], accepted={"CVE-2026-0": "not reachable"})
    assert [each.accepted for each in checked.vulnerabilities.findings] == ["not reachable"]


@pytest.mark.parametrize("release", ["Debian:11", "Alpine:v3.20"])
def test_advisories_of_another_release_say_nothing(bundled, database, release):
    known = database((release, "glibc", "3"), ("PyPI", "other", "1"))
    checked = proof.prove(bundled(IMAGE), today=TODAY, advisories=[known])
    assert checked.vulnerabilities.status == "unknown"
    said = "2 packages in root.tar were not looked up: the advisories have nothing of Debian:12"
    assert f"vulnerabilities unknown: {said}" in checked.remarks
    assert checked.vulnerabilities.examined == ("X 1.0",)


def test_a_distribution_without_advisories_is_said(bundled, database):
    image = IMAGE | {"etc/os-release": RASPBIAN}
    checked = proof.prove(bundled(image), today=TODAY, advisories=[database(("Debian:12", "glibc", "3"))])
    assert any("2 packages in root.tar were not looked up: nobody's advisories" in each for each in checked.remarks)
    assert any("1 packages in root.tar were not looked up: the advisories" in each for each in checked.remarks)


def test_advisories_of_one_ecosystem_vouch_for_no_other(database):
    """A database of Debian's finds nothing wrong with Python's packages: it never heard of them."""
    parts = contents.Contents((Component("onnx", "tool", "1.0", package="onnx"),), ())
    report = vulnerabilities.check(parts, today=TODAY, databases=[database(("Debian:12", "glibc", "1"))])
    assert (report.status, report.examined) == ("unknown", ())
    assert report.unknowns == ("1 packages were not looked up: the advisories have nothing of PyPI",)


def test_pip_audit_is_asked_of_pythons_packages_alone(tmp_path, monkeypatch):
    """And of two versions of one package in two turns: a list of requirements has each once."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pip-audit"
    program.write_text(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\n"
        f'/bin/cat "$1" >>"{tmp_path}/asked"; echo "--" >>"{tmp_path}/asked"\n'
        'version=$(/usr/bin/tr -d "\\n" <"$1" | /usr/bin/cut -d= -f3)\n'
        'echo "{\\"dependencies\\": [{\\"name\\": \\"six\\", \\"version\\": \\"$version\\", \\"vulns\\": []}]}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    six = Component("six", "inside", "1.16.0", package="six", within="root.tar")
    libc = Component("libc6", "inside", "2.36", package="glibc", ecosystem="Debian:12", within="root.tar")
    found = contents.Contents((six, replace(six, version="1.17.0"), libc), ())
    report = vulnerabilities.check(found, today=TODAY)
    assert (tmp_path / "asked").read_text() == "six==1.16.0\n--\nsix==1.17.0\n--\n"
    assert report.unknowns == ("1 packages in root.tar were not looked up: pip-audit knows nothing of Debian:12",)
    assert report.examined == ("six 1.16.0", "six 1.17.0")
