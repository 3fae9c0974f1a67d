"""What is planned where an application is released: found in the registry, for hosts that the inventory names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import stages

from hedgerow import paths
from hedgerow.device.change import Change
from hedgerow.errors import RefusedError, UsageError
from hedgerow.fleet.reported import Report, ReportedApplication, ReportedModel
from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest
from hedgerow.registry.manifest import Port
from hedgerow.rollout import kinds, plan_text, preflight, prepare, release_application
from hedgerow.rollout.plan import Plan, Release, Target

FLEET, MODEL, KIOSK = "meadow-unit", "assistant@1.1.0", "kiosk@1.0.0"
UNIT = "[Service]\nExecStart=/run/application/run\nDynamicUser=yes\nNoNewPrivileges=yes\n"
TARGETS = [
    Target(name="a", site="orchard", applications=("kiosk",)),
    Target(name="b", site="orchard"),
    Target(name="c", site="orchard", applications=("map", "kiosk"), memory_mb=32),
]


@pytest.fixture
def kiosk(tmp_path: Path, published: str) -> str:
    """Beside the model, in the same stage."""
    assert published
    folder = tmp_path / "kiosk"
    folder.mkdir()
    (folder / "kiosk.service").write_text(UNIT)
    (folder / "run").write_text("#!/bin/sh\n")
    request = ApplicationRequest(folder, Description("kiosk", "1.0.0", "MIT"), (Port(8090),), memory_mb=64)
    stage = stages.open_stage(paths.stage_dir(FLEET, paths.DEFAULT_STAGE))
    return stage.publish(pack_application.pack(request, cache=tmp_path / "packed")).built.sha256


def plan(wish: prepare.Wish, targets: list[Target] | None = None) -> Plan:
    return prepare.plan(FLEET, policy=None, targets=targets or TARGETS, wish=wish)


@pytest.mark.parametrize("what", [KIOSK, f"application:{KIOSK}"])
def test_it_is_found_by_its_name_and_judged_by_the_model(kiosk: str, what: str) -> None:
    made = plan(prepare.Wish.of(what, model=MODEL, hosts={}))
    release = made.release
    assert (release.bundle, release.kind, release.sha256) == (f"application:{KIOSK}", "application", kiosk)
    assert (release.serves, release.name, release.questions[0].expect) == (MODEL, "assistant", "Paris")
    assert kinds.wanted(release, "a") == f"application:{KIOSK}"
    assert made.hosts == ["a"]
    assert [(each.host, "does not run kiosk" in each.reason) for each in made.held] == [("b", True)]
    assert [each.host for each in made.incompatible] == ["c"], "32 MB are not enough for 64"
    text = "\n".join(plan_text.describe(made))
    assert f"serves all the while; it is judged by how that runs, and by the questions of {MODEL}" in text
    assert msgspec.json.decode(msgspec.json.encode(made), type=Plan) == made


@pytest.mark.usefixtures("kiosk")
def test_a_model_is_still_a_model() -> None:
    assert plan(prepare.Wish.of(MODEL, model=None, hosts={})).release.kind == "model"


@pytest.mark.usefixtures("kiosk")
def test_nobody_knows_which_model_is_served_or_nobody_runs_it() -> None:
    with pytest.raises(RefusedError, match="rule same-model"):
        plan(prepare.Wish.of(KIOSK, model=None, hosts={}))
    with pytest.raises(RefusedError, match="rule named-applications: no host runs kiosk"):
        plan(prepare.Wish.of(KIOSK, model=MODEL, hosts={}), [TARGETS[1]])
    with pytest.raises(RefusedError):
        plan(prepare.Wish.of("application:kiosk@9.9.9", model=MODEL, hosts={}))


@pytest.mark.usefixtures("published")
def test_what_is_in_no_registry_says_so_of_the_bundle() -> None:
    with pytest.raises(RefusedError, match=r"kiosk@1\.0\.0"):
        plan(prepare.Wish.of(KIOSK, model=MODEL, hosts={}))


def test_an_inventory_names_them_literally() -> None:
    assert prepare.target("a", {"applications": ["kiosk"]}, limited=False).applications == ("kiosk",)
    assert prepare.target("a", {}, limited=False).applications == ()
    for said in ("kiosk", ["Kiosk"], {"kiosk": 1}, "{{ x }}", [1]):
        with pytest.raises(UsageError, match="applications of a"):
            prepare.target("a", {"applications": said}, limited=False)


def test_what_a_host_has_of_it(release: Release) -> None:
    made = msgspec.structs.replace(
        release, bundle=f"application:{KIOSK}", kind="application", model=release.bundle, model_sha256=release.sha256
    )
    model = ReportedModel("assistant", "1.1.0", release.sha256)

    def report(*applications: ReportedApplication) -> Report:
        return Report("ok", model=model, applications=applications)

    assert kinds.had(report(ReportedApplication("kiosk", "0.9.0")), made) == "application:kiosk@0.9.0"
    assert kinds.had(report(ReportedApplication("kiosk")), made) is None
    assert kinds.had(Report("ok", model=model), made) is None
    assert kinds.untold(Report("ok", model=model).applications, None, made)
    assert kinds.untold(report(ReportedApplication("map", "1.0.0")).applications, None, made)
    assert kinds.untold(report(ReportedApplication("kiosk")).applications, None, made) is None
    runs = report(ReportedApplication("kiosk", "1.0.0", active=True))
    assert preflight.serves(runs, made)
    assert list(kinds.revert(made, "slow")) == [
        "revert", "--kind", "application", "--name", "kiosk", "--reason", "slow",
    ]  # fmt: skip


@pytest.mark.usefixtures("kiosk")
def test_an_application_of_a_model_s_name_has_to_be_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / "assistant.service").write_text(UNIT)
    request = ApplicationRequest(folder, Description("assistant", "1.1.0", "MIT"))
    stages.open_stage(paths.stage_dir(FLEET, paths.DEFAULT_STAGE)).publish(
        pack_application.pack(request, cache=tmp_path / "packed2")
    )
    with pytest.raises(UsageError, match="is a model and an application") as caught:
        release_application.is_one(FLEET, MODEL)
    assert f"change=application:{MODEL}" in str(caught.value)
    assert release_application.read(FLEET, Change.parse(f"application:{MODEL}"), [], planned=[], model=MODEL)
