import json
import shutil
import stat
import zipfile
from datetime import date, timedelta

import msgspec
import pytest

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models import proof
from hedgerow.models.proof import advisories, contents, licenses, provenance, sbom, versions, vulnerabilities
from hedgerow.models.proof.component import Component
from hedgerow.registry import bundle, manifest

TODAY = date(2026, 11, 20)


def advisory(name="onnx", identifier="GHSA-1", *, events=None, versions=(), modified="2026-11-10T00:00:00Z", **fields):
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "versions": list(versions)}
    if events is not None:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": events}]
    return {"id": identifier, "modified": modified, "summary": "it breaks", "affected": [affected]} | fields


@pytest.fixture
def database(tmp_path):
    """``database(advisory, …)`` → folder of OSV files."""

    def write(*found):
        folder = tmp_path / "osv"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, each in enumerate(found):
            (folder / f"{number}.json").write_text(json.dumps(each))
        return folder

    return write


@pytest.fixture
def no_pip_audit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_bundle_gets_its_proofs(make_bundle, database):
    folder = make_bundle("mlp")
    before = bundle.load(folder)
    clean = database(advisory("somebody-else", versions=["1.0"]))
    checked = proof.prove(folder, today=TODAY, advisories=[clean])
    document = checked.bundle.manifest
    assert checked.vulnerabilities.status == "clean"
    assert checked.vulnerabilities.examined == ("onnx 1.0",)
    assert checked.remarks == ()
    assert (document.schema, document.sbom) == (2, "sbom.cdx.json")
    assert [(each.kind, each.path, each.date) for each in document.proofs] == [
        ("provenance", "provenance.intoto.json", None),
        ("vulnerabilities", "vulnerabilities.json", "2026-11-20"),
    ]
    bill = json.loads((folder / "sbom.cdx.json").read_text())
    assert bill["metadata"]["component"]["type"] == "machine-learning-model"
    assert sbom.file_hashes(bill) == {each.path: each.sha256 for each in before.manifest.files}
    statement = json.loads((folder / "provenance.intoto.json").read_text())
    assert provenance.subjects(statement) == {each.path: each.sha256 for each in before.manifest.files}
    assert statement["predicate"]["runDetails"]["builder"]["version"]["onnx"] == "1.0"


def test_the_same_bundle_day_and_advisories_give_the_same_bytes(make_bundle, database):
    known = database(advisory("other", versions=["1"]))
    first, second = make_bundle("mlp"), make_bundle("mlp", folder="again")
    one, two = (proof.prove(each, today=TODAY, advisories=[known]).bundle.sha256 for each in (first, second))
    assert one == two
    assert proof.prove(first, today=TODAY, advisories=[known]).bundle.sha256 == one


def test_nothing_looked_up_is_unknown_and_said(make_bundle, no_pip_audit):
    checked = proof.prove(make_bundle("mlp"), today=TODAY)
    assert checked.vulnerabilities.status == "unknown"
    assert checked.vulnerabilities.examined == ()
    assert "nothing was looked up" in checked.remarks[0]


def test_a_known_vulnerability_refuses_and_writes_nothing(make_bundle, database):
    folder = make_bundle("mlp")
    before = sorted(each.name for each in folder.iterdir()), bundle.load(folder).sha256
    known = database(advisory(events=[{"introduced": "0"}, {"fixed": "1.2"}], aliases=["CVE-2026-1"]))
    with pytest.raises(RefusedError, match=r"no-known-vulnerability: onnx 1.0 has GHSA-1 .*fixed in 1.2.*2026-11-20"):
        proof.prove(folder, today=TODAY, advisories=[known])
    assert (sorted(each.name for each in folder.iterdir()), bundle.load(folder).sha256) == before


def test_what_a_person_accepts_is_written_down(make_bundle, database):
    folder = make_bundle("mlp")
    known = database(advisory(versions=["1.0"], aliases=["CVE-2026-1"]))
    checked = proof.prove(folder, today=TODAY, advisories=[known], accepted={"CVE-2026-1": "only at build time"})
    assert checked.vulnerabilities.status == "clean"
    assert [each.accepted for each in checked.vulnerabilities.findings] == ["only at build time"]
    assert checked.remarks == ("GHSA-1 in onnx 1.0 is accepted: only at build time",)
    with pytest.raises(UsageError, match="CVE-2026-2 is accepted but was not found"):
        proof.prove(folder, today=TODAY, advisories=[known], accepted={"CVE-2026-2": "no"})


def test_old_advisories_vouch_for_nothing(make_bundle, database):
    old = database(advisory("other", versions=["1"], modified="2026-10-01T00:00:00Z"))
    checked = proof.prove(make_bundle("mlp"), today=TODAY, advisories=[old])
    assert checked.vulnerabilities.status == "unknown"
    assert "end on 2026-10-01" in checked.remarks[0]


def test_an_old_report_is_remarked(make_bundle, database):
    folder = make_bundle("mlp")
    proof.prove(folder, today=TODAY, advisories=[database(advisory("other", versions=["1"]))])
    assert proof.check(folder, today=TODAY + timedelta(days=30)).remarks == ()
    late = proof.check(folder, today=TODAY + timedelta(days=31))
    assert "checked on 2026-11-20, more than 30 days ago" in late.remarks[0]


def test_archives_that_nobody_opened_are_unknown(make_bundle, database):
    folder = make_bundle("mlp")
    (folder / "extra.tar").write_bytes(b"anything")
    document = bundle.load(folder).manifest
    changed = msgspec.structs.replace(document, files=bundle.describe_files(folder))
    (folder / "manifest.json").write_bytes(manifest.encode(changed))
    checked = proof.prove(folder, today=TODAY, advisories=[database(advisory("other", versions=["1"]))])
    assert checked.remarks == ("vulnerabilities unknown: extra.tar was not looked into",)


def test_a_pickle_is_refused(make_bundle):
    folder = make_bundle("mlp")
    (folder / "weights.PKL").write_bytes(b"anything")
    changed = msgspec.structs.replace(bundle.load(folder).manifest, files=bundle.describe_files(folder))
    (folder / "manifest.json").write_bytes(manifest.encode(changed))
    with pytest.raises(RefusedError, match=r"no-pickles: weights\.PKL"):
        proof.prove(folder, today=TODAY)


def prove_clean(make_bundle, database):
    folder = make_bundle("mlp")
    proof.prove(folder, today=TODAY, advisories=[database(advisory("other", versions=["1"]))])
    return folder


@pytest.mark.parametrize("path", ["sbom.cdx.json", "provenance.intoto.json"])
def test_a_proof_of_other_bytes_is_no_proof(make_bundle, database, path):
    folder = prove_clean(make_bundle, database)
    sha256 = next(f.sha256 for f in bundle.load(folder).manifest.files if f.path == "model.onnx")
    text = (folder / path).read_text()
    assert sha256 in text
    rewrite(folder, path, text.replace(sha256, "0" * 64))
    with pytest.raises(PublisherError, match=r"speaks of other bytes: model\.onnx is 000000000000 there"):
        proof.check(folder, today=TODAY)


@pytest.mark.parametrize(
    "path,old,new",
    [
        ("sbom.cdx.json", '"specVersion": "1.6"', '"specVersion": "1.5"'),
        ("sbom.cdx.json", '"bomFormat": "CycloneDX"', '"bomFormat": "SPDX"'),
        ("sbom.cdx.json", '"type": "file"', '"type": "thing"'),
        ("provenance.intoto.json", "https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v2"),
        ("provenance.intoto.json", '"subject"', '"subjects"'),
        ("provenance.intoto.json", '"buildType": "urn', '"buildType": "not a uri'),
        ("vulnerabilities.json", '"status": "clean"', '"status": "fine"'),
    ],
)
def test_a_proof_that_breaks_its_schema_is_refused(make_bundle, database, path, old, new):
    folder = prove_clean(make_bundle, database)
    text = (folder / path).read_text()
    assert old in text
    rewrite(folder, path, text.replace(old, new))
    with pytest.raises(PublisherError):
        proof.check(folder, today=TODAY)


def rewrite(folder, path, text):
    """An attacker with the publisher's folder: the manifest fits the altered file."""
    (folder / path).write_text(text)
    changed = msgspec.structs.replace(bundle.load(folder).manifest, files=bundle.describe_files(folder))
    (folder / "manifest.json").write_bytes(manifest.encode(changed))


def test_a_bundle_without_proofs_is_refused(make_bundle):
    with pytest.raises(RefusedError, match=r"proofs-are-there: mlp@1\.0\.0 has no sbom"):
        proof.check(make_bundle("mlp"), today=TODAY)


@pytest.mark.parametrize(
    "text,found",
    [
        ("Apache-2.0", "Apache-2.0"),
        ("apache-2.0 or mit", "Apache-2.0 OR MIT"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-Our-Own", "LicenseRef-Our-Own"),
        ("MIT AND LicenseRef-Our.Own", "MIT AND LicenseRef-Our.Own"),
        ("Apache 2", None),
        ("free", None),
        ("MIT OR", None),
        ("", None),
        ("LicenseRef-", None),
    ],
)
def test_licenses_are_spdx(text, found):
    assert licenses.normalized(text) == found


def test_a_license_of_ones_own_needs_its_text(make_bundle):
    with pytest.raises(RefusedError, match="license-has-text"):
        proof.prove(make_bundle("mlp", license="LicenseRef-Ours", license_file=None), today=TODAY)
    with pytest.raises(RefusedError, match="license-is-spdx: 'free'"):
        proof.prove(make_bundle("mlp", folder="other", license="free"), today=TODAY)


@pytest.mark.parametrize(
    "version,events,inside",
    [
        ("1.0", [{"introduced": "0"}], True),
        ("1.0", [{"introduced": "0"}, {"fixed": "1.0"}], False),
        ("1.0rc1", [{"introduced": "0"}, {"fixed": "1.0"}], True),
        ("1.9", [{"introduced": "2.0"}, {"fixed": "2.5"}], False),
        ("2.0", [{"introduced": "2.0"}, {"fixed": "2.5"}], True),
        ("2.5", [{"introduced": "2.0"}, {"last_affected": "2.5"}], True),
        ("2.5.1", [{"introduced": "2.0"}, {"last_affected": "2.5"}], False),
        ("3.1", [{"fixed": "2.5"}, {"introduced": "0"}, {"introduced": "3.0"}, {"fixed": "3.2"}], True),
        ("2.7", [{"introduced": "0"}, {"fixed": "2.5"}, {"introduced": "3.0"}], False),
        ("10.0", [{"introduced": "9.0"}, {"fixed": "11"}], True),
        ("not-a-version", [{"introduced": "0"}, {"fixed": "1"}], True),
    ],
)
def test_ranges_are_osvs(version, events, inside):
    assert versions.affects({"ranges": [{"type": "ECOSYSTEM", "events": events}]}, version) is inside


def test_listed_versions_are_compared_as_versions():
    assert versions.affects({"versions": ["1.0.0", "weird"]}, "1.0")
    assert not versions.affects({"versions": ["1.0.1"]}, "1.0")


def test_what_does_not_count(database):
    onnx = Component("onnx", "tool", "1.0", package="onnx")
    withdrawn = advisory(versions=["1.0"], withdrawn="2026-11-11T00:00:00Z")
    another = advisory("onnx-tools", "GHSA-2", versions=["1.0"])
    elsewhere = advisory(identifier="GHSA-3", versions=["1.0"])
    elsewhere["affected"][0]["package"]["ecosystem"] = "npm"
    assert advisories.load([database(withdrawn, another, elsewhere)], {("PyPI", "onnx")}).matches(onnx) == []
    spelled = advisory("ONNX", "GHSA-4", versions=["1.0"])
    assert [each.id for each in advisories.load([database(spelled)], {("PyPI", "onnx")}).matches(onnx)] == ["GHSA-4"]


def test_advisories_come_as_osvs_zip_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(advisory(versions=["1.0"])))
    found = advisories.load([tmp_path / "all.zip"], {("PyPI", "onnx")})
    assert (found.count, found.newest) == (1, date(2026, 11, 10))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"id": "x", "modified": "yesterday"}'])
def test_a_database_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UsageError):
        advisories.load([tmp_path], {("PyPI", "onnx")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no advisory here"):
        advisories.load([tmp_path / "empty"], {("PyPI", "onnx")})


def pip_audit(tmp_path, monkeypatch, *, answer="", code=0):
    """A program called pip-audit that gives a prepared answer."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pip-audit"
    (tmp_path / "answer.json").write_text(answer)
    program.write_text(f'#!/bin/sh\necho "lost the line" >&2\n/bin/cat "{tmp_path}/answer.json"\nexit {code}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


PARTS = contents.Contents((Component("onnx", "tool", "1.0", package="onnx"),), ())


def test_pip_audit_is_asked_where_it_is(tmp_path, monkeypatch):
    vulns = [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": ["CVE-1"], "description": "bad"}]
    answer = {"dependencies": [{"name": "onnx", "version": "1.0", "vulns": vulns}], "fixes": []}
    pip_audit(tmp_path, monkeypatch, answer=json.dumps(answer), code=1)
    report = vulnerabilities.check(PARTS, today=TODAY)
    assert (report.status, report.source) == ("vulnerable", "pip-audit")
    assert [(each.id, each.fixed) for each in report.findings] == [("PYSEC-1", ("1.1",))]


@pytest.mark.parametrize(
    "answer,code,said",
    [
        ('{"dependencies": [{"name": "onnx", "skip_reason": "not on PyPI"}]}', 0, "not on PyPI"),
        ('{"dependencies": []}', 0, "said nothing"),
        ("", 2, "lost the line"),
        ("", 1, "lost the line"),
        ("no json", 0, "pip-audit failed"),
    ],
)
def test_what_pip_audit_cannot_say_is_unknown(tmp_path, monkeypatch, answer, code, said):
    pip_audit(tmp_path, monkeypatch, answer=answer, code=code)
    report = vulnerabilities.check(PARTS, today=TODAY)
    assert report.status == "unknown"
    assert said in report.unknowns[0]


def test_pip_audit_that_finds_nothing_is_clean(tmp_path, monkeypatch):
    pip_audit(tmp_path, monkeypatch, answer='{"dependencies": [{"name": "onnx", "version": "1.0", "vulns": []}]}')
    assert vulnerabilities.check(PARTS, today=TODAY).status == "clean"


def test_wheels_are_looked_into(tmp_path):
    wheel = tmp_path / "Some_Thing-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        head = "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\n\nText"
        archive.writestr("Some_Thing-1.2.dist-info/METADATA", head)
    document = manifest.Manifest(
        schema=2, name="runtime", version="1.0.0", format="wheels", license="MIT", kind="runtime",
        files=bundle.describe_files(tmp_path), requires=manifest.Requires(1),
        provenance=manifest.Provenance((manifest.Source("lock"),), "a test", {}),
    )  # fmt: skip
    found = contents.of_bundle(tmp_path, document)
    component = found.packages()[0]
    assert (component.name, component.version, component.package) == ("Some_Thing", "1.2", "some-thing")
    assert component.purl == "pkg:pypi/some-thing@1.2"
    bill = sbom.build(document, found)
    sbom.encode(bill)
    assert bill["components"][0]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    wheel.write_bytes(b"no archive")
    with pytest.raises(PublisherError, match="says nothing about itself"):
        contents.of_bundle(tmp_path, document)


def test_everything_a_manifest_can_say_makes_a_valid_bill(make_bundle):
    machine = manifest.Machine("a board", "a processor", 1000)
    figures = (manifest.Expectation("full-power", machine, 5, p50_ms=2.5, tokens_per_s=9.0, peak_memory_mb=80.0),)
    tensor = manifest.Tensor("x", "FP32", (-1, 32))
    folder = make_bundle(
        "mlp", schema=2, description="a test", expectations=figures, inputs=(tensor,), outputs=(tensor,),
        features={"chat": True}, calibration=manifest.Calibration("a" * 64, 8),
        quantization=manifest.Quantization("int8-qdq", 8), license="MIT OR Apache-2.0",
    )  # fmt: skip
    document = bundle.load(folder).manifest
    parts = contents.of_bundle(folder, document)
    bill = sbom.build(document, parts)
    sbom.encode(bill)
    card = bill["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["inputs"] == [{"format": "x: FP32[-1, 32]"}]
    assert {"type": "latency p50, ms", "value": "2.5", "slice": "full-power on a board"} in card[
        "quantitativeAnalysis"
    ]["performanceMetrics"]
    statement = provenance.build(document, parts)
    provenance.encode(statement)
    assert {"name": "calibration set", "digest": {"sha256": "a" * 64}} in statement["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]


def test_the_command(hedgerow, make_bundle, database, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763596800")  # 2025-11-20
    folder = make_bundle("mlp")
    vulnerable = database(advisory(versions=["1.0"], modified="2025-11-19T00:00:00Z"))
    code, _, err = hedgerow("model", "prove", folder, "--advisories", vulnerable)
    assert (code, "no-known-vulnerability" in err) == (3, True)
    code, out, _ = hedgerow(
        "model", "prove", folder, "--advisories", vulnerable, "--accept", "GHSA-1=build time only", "--json"
    )
    facts = json.loads(out)
    assert code == 0
    assert (facts["vulnerabilities"], facts["checked"]) == ("clean", "2025-11-20")
    code, out, err = hedgerow("model", "prove", folder, "--check")
    assert code == 0
    assert facts["sha256"] in out
    assert "is accepted: build time only" in err


@pytest.mark.parametrize("arguments", [["--accept", "GHSA-1"], ["--accept", "=why"], ["--check", "--accept", "a=b"]])
def test_wrong_use(hedgerow, make_bundle, arguments):
    code, _, err = hedgerow("model", "prove", make_bundle("mlp"), *arguments)
    assert code == 2
    assert "next:" in err
