"""playbooks/rollout.yml with ``change=``, run by the real ansible-playbook over devices in memory."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from hedgerow.rollout import configuration, store

_spec = importlib.util.spec_from_file_location("playbook_site", Path(__file__).with_name("test_playbook.py"))
assert _spec is not None
assert _spec.loader is not None
playbook = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(playbook)
Site, POLICY, NAMES, NEW, FLEET = playbook.Site, playbook.POLICY, playbook.NAMES, playbook.NEW, playbook.FLEET

pytestmark = pytest.mark.slow

OLD = "0.1.0+old"


@pytest.fixture
def site(tmp_path: Path, make_pi, published, monkeypatch: pytest.MonkeyPatch) -> Site:
    """All serve NEW by a rollout of before, with an old runtime and an old configuration."""
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder, published, make_pi)
    made.common |= {"serving_model": "assistant", "inference_runtime_server": {"threads": 2}}
    for number, name in enumerate(NAMES):
        made.hosts[name]["pi_serial"] = f"{number:016x}"
    made.write()
    done = made.rollout(waves=[3])
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        made.set(name, runtime=OLD, configuration="old", has_runtimes=True, calls=[])
    monkeypatch.setenv("FAKEPI_CHANGE", "1")
    return made


def change(site: Site, what: str, *arguments: str, **policy: object):
    values = {"change": what, "rollout_policy": POLICY | policy}
    return site.play("-e", json.dumps(values), *arguments)


def wanted(site: Site, kind: str) -> dict[str, str]:
    if kind == "runtime":
        # As the plan says: somebody may be at work in the tree while this runs.
        release = store.read(store.folder(FLEET))[1].plan.release
        return dict.fromkeys(NAMES, release.bundle.removeprefix("runtime:"))
    return configuration.versions({name: site.common | site.hosts[name] for name in NAMES})[1]


def runs(site: Site, kind: str) -> dict[str, object]:
    return {name: site.get(name)[kind] for name in NAMES}


def sound(site: Site) -> None:
    for name in NAMES:
        state = site.get(name)
        assert (state["pending"], state.get("drained", False), state.get("cut", 0)) == (False, False, 0), name
        assert state["serves"] == NEW


@pytest.mark.parametrize("kind", ["runtime", "configuration"])
def test_it_reaches_all_drained_and_a_second_run_changes_nothing(site: Site, kind: str) -> None:
    done = change(site, kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs(site, kind) == wanted(site, kind)
    assert f"judged by the questions of {NEW}" in done.stdout
    verbs = [verb for verb in site.get("pi-1")["calls"] if verb not in {"report", "stage"}]
    assert verbs == ["drain", "activate", "confirm", "undrain"]
    sound(site)
    if kind == "configuration":
        assert "threads: 2" in str(site.get("pi-1")["text"])
    for name in NAMES:
        site.set(name, calls=[])
    again = change(site, kind)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [site.get(name)["calls"] for name in NAMES] == [["report"]] * 3


@pytest.mark.parametrize("kind", ["runtime", "configuration"])
def test_a_bad_one_stops_at_the_first_host_and_is_undone(site: Site, kind: str) -> None:
    for name in NAMES:
        site.set(name, sound_with={"runtime": OLD, "configuration": "old"})
    done = change(site, kind)
    assert done.returncode == 2, done.stdout + done.stderr
    assert runs(site, kind) == dict.fromkeys(NAMES, OLD if kind == "runtime" else "old")
    state = store.read(store.folder(FLEET))[1]
    assert (state.phase, state.plan.release.kind, state.plan.release.model) == ("stopped", kind, NEW)
    touched = [name for name in NAMES if site.get(name)["calls"]]
    assert len(touched) == 1
    sound(site)


def test_a_host_that_serves_another_model_is_refused(site: Site) -> None:
    site.set("pi-2", serves=playbook.OLD)
    done = change(site, "configuration", budgets={"failures": 1})
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"rule same-model: it serves {playbook.OLD}" in done.stdout
    assert runs(site, "configuration")["pi-2"] == "old"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["-e", "change=adapter"], "rule kind: no adapter can be released: it comes with a version of its model"),
        (["-e", "change=application"], "change=application does not say which"),
        (["-e", "change=application:kiosk@1.0.0"], "rule named-applications: no host runs kiosk"),
        (["-e", "change=kernel"], "change=kernel is nothing that can be released"),
        (["-e", "change=runtime:9.9.9"], "rule expected-version: runtime:9.9.9 was asked for"),
        (["-e", f"bundle={NEW}", "-e", "change=runtime"], "nobody can tell what is to be released"),
        (["-e", "change=runtime", "-e", "model=assistant@9.9.9"], "the registry has no assistant@9.9.9"),
    ],
)
def test_what_cannot_be_released_is_refused_before_a_host_is_touched(
    site: Site, arguments: list[str], says: str
) -> None:
    done = site.play(*arguments)
    assert done.returncode == 2
    assert says in done.stdout + done.stderr
    assert [site.get(name)["calls"] for name in NAMES] == [[]] * 3
