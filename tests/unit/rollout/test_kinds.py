"""What is planned where no model is released: versions, the model that judges, and who is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from hedgerow.commands import rollout_simulate
from hedgerow.device.change import configuration_version
from hedgerow.errors import DeviceError, RefusedError, UsageError
from hedgerow.paths import repository_root
from hedgerow.rollout import configuration, delivery, kinds, plan_text, prepare, release_restarting, report, start
from hedgerow.rollout import plan as plans
from hedgerow.rollout.delivery import Delivery
from hedgerow.rollout.events import Closed, HostActivated, HostFinished, HostStarted, Opened, Outcome, State, replay
from hedgerow.rollout.plan import Plan, Release, Target
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.remote import Completed
from hedgerow.runtime import target as runtimes
from hedgerow.runtime import wheelhouse
from hedgerow.runtime.version import runtime_version

FLEET, NEW = "meadow-unit", "assistant@1.1.0"


def variables(serial: int, **server: Any) -> dict[str, Any]:
    values = {"pi_serial": f"{serial:016x}", "fleet": FLEET, "site": "orchard", "serving_model": "assistant"}
    return values | {"inference_runtime_server": server}


# -- configurations ------------------------------------------------------------


def test_a_configuration_is_the_role_s_own_text() -> None:
    """The role renders with the same function; its header and the keys that the fleet decides must be these."""
    role = yaml.safe_load((repository_root() / "roles/inference_runtime/vars/main.yml").read_text())
    assert role["_inference_runtime_header"] == configuration.HEADER
    assert configuration.STRUCT in role["_inference_runtime_configuration"]
    decided = "{'host': inventory_hostname, 'serial': pi_serial, 'fleet': fleet, 'site': site, 'model': serving_model}"
    assert decided in role["_inference_runtime_server"]
    text = configuration.render("pi-1", variables(1, threads=2)).decode()
    assert list(yaml.safe_load(text)) == ["host", "serial", "fleet", "site", "model", "threads"]


def test_the_role_s_smoke_imports_are_the_engine_s() -> None:
    defaults = yaml.safe_load((repository_root() / "roles/inference_runtime/defaults/main.yml").read_text())
    assert tuple(defaults["inference_runtime_smoke_imports"]) == delivery.SMOKE_IMPORTS


def test_each_host_has_a_version_of_its_own_and_the_fleet_one() -> None:
    hosts = {"a": variables(1, threads=2), "b": variables(2, threads=2)}
    digest, versions = configuration.versions(hosts)
    assert versions["a"] != versions["b"]
    assert versions["a"] == configuration_version(configuration.render("a", hosts["a"]))
    joined, more = configuration.versions(hosts | {"c": variables(3, threads=2)})
    assert (joined, more["a"]) == (digest, versions["a"]), "a host that comes later would make another rollout"
    assert configuration.versions({"a": hosts["a"], "b": variables(2, threads=3)})[0] != digest


def test_a_host_without_grpc_has_the_role_s_text_too() -> None:
    assert b"grpc" not in configuration.render("a", variables(1) | {"inference_runtime_grpc": True})
    text = configuration.render("a", variables(1, threads=2) | {"inference_runtime_grpc": False}).decode()
    assert list(yaml.safe_load(text).items())[-3:] == [("grpc", None), ("grpcs", None), ("threads", 2)]
    role = yaml.safe_load((repository_root() / "roles/inference_runtime/vars/main.yml").read_text())
    assert "{} if inference_runtime_grpc else {'grpc': none, 'grpcs': none}" in role["_inference_runtime_server"]


@pytest.mark.parametrize("server, says", [({"threads": "{{ x }}"}, "is a template"), ({"treads": 2}, "treads")])
def test_what_the_server_would_not_take_is_said_before_a_host_is_touched(server: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        configuration.versions({"a": variables(1, **server)})


# -- which model judges ----------------------------------------------------------


def past(release: Release, *, kind: str = "model", **outcomes: Outcome) -> State:
    """A rollout that has ended."""
    made = msgspec.structs.replace(release, kind=kind, bundle=release.bundle if kind == "model" else f"{kind}:1")
    state = replay([Opened(at="t", plan=Plan(release=made, policy=Policy(), waves=[list(outcomes)]), by="x")])
    for host, outcome in outcomes.items():
        for event in (
            HostStarted(at="t", host=host, before="assistant@1.0.0", baseline=[]),
            HostActivated(at="t", host=host, seconds=1.0),
            HostFinished(at="t", host=host, outcome=outcome, reason=""),
        ):
            state.apply(event)
    state.apply(Closed(at="t"))
    return state


def test_rollouts_know_what_is_served_and_other_kinds_say_nothing_of_it(release: Release) -> None:
    newest = [past(release, kind="runtime", a=Outcome.CONFIRMED), past(release, a=Outcome.CONFIRMED)]
    assert release_restarting.served_model(["a", "b"], newest) == NEW
    assert release_restarting.served_model(["a"], [past(release, a=Outcome.REVERTED)]) == "assistant@1.0.0"


def test_two_models_or_none_are_refused(release: Release) -> None:
    with pytest.raises(RefusedError, match="different models") as caught:
        release_restarting.served_model(["a", "b"], [past(release, a=Outcome.CONFIRMED, b=Outcome.REVERTED)])
    assert "assistant@1.0.0: b" in (caught.value.where or "")
    with pytest.raises(RefusedError, match="no rollout knows"):
        release_restarting.served_model(["a"], [])


@pytest.mark.usefixtures("published")
def test_a_release_that_is_no_model_has_the_model_s_questions(published: str) -> None:
    hosts = {"a": variables(1), "b": variables(2)}
    made = release_restarting.read(FLEET, "configuration", hosts, [], planned=hosts, model=NEW)
    assert (made.kind, made.serves, made.serves_sha256, made.name) == ("configuration", NEW, published, "assistant")
    assert made.questions[0].expect == "Paris"
    assert kinds.wanted(made, "a") == f"configuration:{configuration_version(configuration.render('a', hosts['a']))}"
    assert kinds.parse(made.bundle) == ("configuration", made.sha256[:12])
    again = release_restarting.read(FLEET, made.bundle, hosts, [], planned=hosts, model=NEW)
    assert again == made
    with pytest.raises(RefusedError, match="rule expected-version"):
        release_restarting.read(FLEET, "configuration:000000000000", hosts, [], planned=hosts, model=NEW)
    runtime = release_restarting.read(FLEET, "runtime", hosts, [], planned=hosts, model=NEW)
    assert kinds.wanted(runtime, "a") == runtime.bundle


@pytest.mark.usefixtures("published")
def test_a_runtime_has_a_version_for_each_set_of_extras() -> None:
    root = repository_root()
    hosts = {"a": variables(1), "b": variables(2)}

    def asking(**extras: list[str]) -> Release:
        asked = {name: of | {"inference_runtime_extras": extras.get(name, [])} for name, of in hosts.items()}
        return release_restarting.read(FLEET, "runtime", asked, [], planned=hosts, model=NEW)

    plain = release_restarting.read(FLEET, "runtime", hosts, [], planned=hosts, model=NEW)
    assert asking() == plain
    same = asking(a=["traces"], b=["traces"])
    assert (same.bundle, same.versions) == (f"runtime:{runtime_version(root, ['traces'])}", {})
    mixed = asking(b=["vision", "traces"])
    assert kinds.wanted(mixed, "a") == plain.bundle
    assert mixed.size_bytes > same.size_bytes > plain.size_bytes
    assert kinds.wanted(mixed, "b") == f"runtime:{runtime_version(root, ['traces', 'vision'])}"
    assert len({each.sha256 for each in (plain, same, mixed)}) == 3
    with pytest.raises(UsageError, match="'tracing' is no extra"):
        asking(b=["tracing"])


@pytest.mark.usefixtures("published")
def test_a_plan_of_it_says_what_it_does_and_is_read_again() -> None:
    targets = [Target(name="a", site="orchard"), Target(name="b", site="orchard")]
    wish = prepare.Wish.of("configuration", model=NEW, hosts={"a": variables(1), "b": variables(2)})
    made = prepare.plan(FLEET, policy=None, targets=targets, wish=wish)
    text = "\n".join(plan_text.describe(made))
    assert f"judged by the questions of {NEW}" in text
    assert "not known" not in text
    assert msgspec.json.decode(msgspec.json.encode(made), type=Plan) == made


def test_plans_of_older_controllers_are_of_models(release: Release) -> None:
    made = plans.make([Target(name="a")], Policy(), release)
    document = msgspec.to_builtins(made)
    for key in ("kind", "model", "model_sha256", "versions"):
        del document["release"][key]
    old = msgspec.convert(document, Plan)
    assert (old.release.kind, old.release.serves, kinds.wanted(old.release, "a")) == ("model", NEW, NEW)


def test_the_command_line_takes_kinds() -> None:
    line = start.arguments(Path("i"), "runtime:1", policy=None, limit=None, check=False, model=NEW)
    assert '{"change": "runtime:1", "model": "assistant@1.1.0"}' in line
    line = start.arguments(Path("i"), NEW, policy=None, limit=None, check=False, model=NEW)
    assert '{"bundle": "assistant@1.1.0", "model": "assistant@1.1.0"}' in line, "an application may be meant"


# -- bringing it to a host ---------------------------------------------------------


class Line:
    """A host that has what it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.stdin = b""

    def device(self, arguments, *, timeout_s: int, stdin: bytes) -> Completed:
        self.asked.append(tuple(arguments))
        self.stdin = stdin
        return Completed(0, '{"changed": true, "new_bytes": 7}', "")

    def target(self):
        raise AssertionError("it was there")

    put = remote = target


def test_a_configuration_is_brought_as_it_was_planned_or_not_at_all() -> None:
    line, of = Line(), variables(1, threads=2)
    text = configuration.render("a", of)
    change = f"configuration:{configuration_version(text)}"
    assert Delivery("a", line, of)(change, timeout_s=9)["new_bytes"] == 7
    assert (line.asked, line.stdin) == ([("stage", change, "--json")], text)
    with pytest.raises(DeviceError, match="the inventory makes configuration:"):
        Delivery("a", line, variables(1, threads=3))(change, timeout_s=9)


def test_what_the_controller_lacks_for_a_host_is_that_host_s_refusal() -> None:
    class Old(Line):
        def device(self, arguments, *, timeout_s: int, stdin: bytes) -> Completed:
            return Completed(2, "", '{"what": "runtime:1 is not on this device", "where": "", "next": null}')

        def target(self):
            return runtimes.Target("2.7", "aarch64")

    with pytest.raises(DeviceError, match=r"no runtime is built for Python 2\.7"):
        Delivery("a", Old(), variables(1))("runtime:1", timeout_s=9)
    with pytest.raises(DeviceError, match="treads"):
        Delivery("a", Line(), variables(1, treads=2))("configuration:1", timeout_s=9)


def test_a_runtime_that_is_there_is_not_brought_again() -> None:
    line = Line()
    assert Delivery("a", line, variables(1))("runtime:1", timeout_s=9)["changed"] is True
    assert line.asked == [("stage", "runtime:1", "--json")]


def test_a_runtime_is_brought_with_the_extras_that_its_host_asks_for(monkeypatch, tmp_path) -> None:
    class Lacking(Line):
        staged: ClassVar[dict[str, Any]] = {}

        def device(self, arguments, *, timeout_s: int, stdin: bytes) -> Completed:
            if self.staged:
                return super().device(arguments, timeout_s=timeout_s, stdin=stdin)
            return Completed(2, "", '{"what": "it is not on this device", "where": "", "next": null}')

        def target(self):
            return runtimes.Target("3.13", "aarch64")

        def put(self, local: str) -> str:
            return local

        def remote(self, module: str, function: str, **arguments: Any) -> dict[str, Any]:
            self.staged.update(arguments)
            return {"changed": True}

    def build(target, root=None, *, extras=()):
        version = runtime_version(repository_root(), extras)
        return (
            wheelhouse.Wheelhouse(
                version=version, python="3.13", architecture="aarch64", archive="x", sha256="0", size=9, wheels=1
            ),
            True,
        )

    monkeypatch.setattr(wheelhouse, "build", build)
    of = variables(1) | {"inference_runtime_extras": ["traces"]}
    wanted = f"runtime:{runtime_version(repository_root(), ['traces'])}"
    assert Delivery("a", Lacking(), of)(wanted, timeout_s=9)["new_bytes"] == 9
    assert Lacking.staged["smoke_imports"] == [*delivery.SMOKE_IMPORTS, "hedgerow.server.telemetry.otlp"]
    Lacking.staged.clear()
    with pytest.raises(DeviceError, match="inference_runtime_extras"):
        Delivery("a", Lacking(), variables(1))(wanted, timeout_s=9)


# -- told and simulated -----------------------------------------------------------


def simulated(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        rollout_simulate.simulate,
        [*arguments, "--hosts", "24", "--json"],
        standalone_mode=False,
        catch_exceptions=False,
    )
    found: dict[str, Any] = msgspec.json.decode(done.output)
    return found


@pytest.mark.parametrize("kind", kinds.RESTARTING)
def test_a_simulation_knows_that_it_restarts(kind: str) -> None:
    of_model, of_kind = simulated("--size-mb", "70"), simulated(kind)
    assert (of_model["kind"], of_kind["kind"]) == ("model", kind)
    assert of_kind["runs"][0]["counts"] == of_model["runs"][0]["counts"]
    if kind == "runtime":  # as many bytes, so that what is left is the restarts
        assert of_kind["runs"][0]["duration_s"] > of_model["runs"][0]["duration_s"] + 12


def test_a_report_for_machines_has_the_kind(release: Release) -> None:
    state = past(release, kind="runtime", a=Outcome.CONFIRMED)
    assert {key: report.document("x", state)[key] for key in ("bundle", "kind")} == {
        "bundle": "runtime:1",
        "kind": "runtime",
    }
