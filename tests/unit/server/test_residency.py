"""Which models stay in memory: the rules alone, the measure on this process, and both through a data plane."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import numpy as np
import pytest
import server_support as support

from hedgerow.commands.serve import serve
from hedgerow.errors import UsageError
from hedgerow.server import library, memory
from hedgerow.server.computing import Computing
from hedgerow.server.config import Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import NotFound, Overloaded, Unusable
from hedgerow.server.inference import InferRequest
from hedgerow.server.residency import DoesNotFit, Resident, Rules, idle, room

MB = 1 << 20

# ── the rules ───────────────────────────────────────────────────────────────

OLD, USED, NEW = (
    Resident("old", 300 * MB, loaded_s=0, used_s=10),
    Resident("used", 200 * MB, loaded_s=0, used_s=90),
    Resident("new", 100 * MB, loaded_s=80, used_s=80),
)
ALL = [USED, NEW, OLD]


@pytest.mark.parametrize(
    "needed, budget, pins, going",
    [
        (100, 700, (), []),
        (101, 700, (), ["old"]),
        (400, 700, (), ["old"]),
        (401, 700, (), ["old", "used"]),
        (300, 700, ("old",), ["used"]),
        (10**6, None, (), []),
    ],
)
def test_the_least_recently_used_gives_way_and_no_more_than_must(needed, budget, pins, going) -> None:
    rules = Rules(None if budget is None else budget * MB, pins=frozenset(pins))
    assert room("next", needed * MB, ALL, rules, 100) == going


def test_what_will_not_fit_is_refused_with_the_figures() -> None:
    rules = Rules(700 * MB, pins=frozenset({"old"}))
    with pytest.raises(DoesNotFit) as caught:
        room("next", 401 * MB, ALL, rules, 100)
    assert caught.value.status == 507
    assert caught.value.text == (
        "model 'next' needs 401 MB; of the budget of 700 MB, 100 MB are free; "
        "loaded: used 200 MB, new 100 MB (just loaded), old 300 MB (pinned)"
    )


def test_what_does_not_fit_yet_is_told_when_to_come_again() -> None:
    busy = Resident("used", 200 * MB, loaded_s=0, used_s=90, busy=True)
    with pytest.raises(Overloaded, match=r"used 200 MB \(in use\), new 100 MB \(just loaded\)") as caught:
        room("next", 600 * MB, [busy, NEW, OLD], Rules(700 * MB), 100)
    assert caught.value.retry_after_s == 10
    with pytest.raises(Overloaded) as caught:
        room("next", 600 * MB, [busy, OLD], Rules(700 * MB), 100)
    assert caught.value.retry_after_s == 1


def test_idle_models_go_and_the_next_look_is_when_one_may_be() -> None:
    rules = Rules(keep_alive_s=60, minimum_stay_s=30, pins=frozenset({"pinned"}))
    pinned = Resident("pinned", 1, 0, 0)
    busy = Resident("busy", 1, 0, 0, busy=True)
    assert idle([*ALL, pinned, busy], rules, 100) == (["old"], 40)
    assert idle([NEW], rules, 139) == ([], 1)
    assert idle([NEW], rules, 140) == (["new"], 60)
    assert idle([Resident("stays", 1, loaded_s=0, used_s=0)], Rules(keep_alive_s=5, minimum_stay_s=30), 10) == ([], 5)
    assert idle(ALL, Rules(), 10**9) == ([], None)


# ── the measure ─────────────────────────────────────────────────────────────


def test_mappings_are_told_apart_by_their_path() -> None:
    text = (Path(__file__).parent / "smaps.txt").read_text()
    own = memory.parse(text, "/srv/models/talker/1").own
    assert own == (40 + 16 + (44 - 12) + 60) * 1024  # there, swapped out, given back and not yet taken, the stack
    assert memory.parse(text, "/srv/models/talker/1") == memory.Usage(own, 131072 * 1024)
    assert memory.parse(text, "/srv/models/talk") == memory.Usage(own, 0)


def size_of(load: str, folder: Path) -> int:
    """Bytes that ``load``, the text of a function, was measured to take.

    In a process of its own: in that of the tests, things that others let go of meanwhile take megabytes off.
    """
    program = f"""
import mmap, subprocess, sys
from pathlib import Path
import numpy as np
from hedgerow.server import memory
MB = 1 << 20
folder = Path(sys.argv[1])
{textwrap.dedent(load)}
kept, size = memory.measured(folder, load)
assert kept[-1] == 1
print(size)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=support.PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_is_taken_is_measured(tmp_path: Path) -> None:
    load = """
    def load():
        return np.ones(32 * MB, np.uint8)
    """
    assert 31 * MB <= size_of(load, tmp_path) < 33 * MB


def test_a_process_that_starts_meanwhile_and_shares_the_libraries_takes_nothing_off(tmp_path: Path) -> None:
    load = """
    import atexit, onnxruntime
    def load():
        kept = np.ones(8 * MB, np.uint8)
        program = "import onnxruntime; print('there', flush=True); input()"
        other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(other.communicate, b"\\n")
        assert other.stdout.readline() == b"there\\n"
        return kept
    """
    assert 7 * MB <= size_of(load, tmp_path) < 10 * MB


def test_a_mapped_file_counts_whole_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(16 * MB - 1) + b"\1")
    load = """
    def load():
        with (folder / "weights").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    """
    assert 15 * MB <= size_of(load, tmp_path) < 17 * MB


# ── through the data plane ──────────────────────────────────────────────────


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """Four models; each is said to take as many MB as it adds. Measuring itself is tried above and below."""
    for number, name in enumerate(("one", "two", "three", "four"), start=1):
        support.write_add(tmp_path / name / "1", number)

    def measured(folder, load):
        return load(), {"one": 100, "two": 200, "three": 300, "four": 400}[folder.parent.name] * MB

    monkeypatch.setattr(library.memory, "measured", measured)
    return tmp_path


def with_plane(work, root: Path, rules: Rules) -> None:
    async def main() -> None:
        plane = DataPlane(root, limits=Limits(), computing=Computing(threads=1), residency=rules)
        clock = plane._library._residents._clock = Clock()
        try:
            await asyncio.wait_for(work(plane, clock), support.PATIENCE_S)
        finally:
            await plane.close()

    asyncio.run(main())


async def added(plane: DataPlane, name: str) -> float:
    request = InferRequest(name, {"x": np.ones((1, 2), np.float32)})
    return float((await plane.infer(request, protocol="t")).outputs["y"][0, 0]) - 1


def loaded(plane: DataPlane) -> list[str]:
    return [name for name in plane.names if plane.serving(name) is not None]


def unloads(plane: DataPlane, reason: str) -> float | None:
    return plane.metrics.registry.get_sample_value("hedgerow_server_model_unloads_total", {"reason": reason})


def test_models_come_when_they_are_asked_for_and_the_least_recently_used_go(root: Path) -> None:
    async def work(plane: DataPlane, clock: Clock) -> None:
        await plane.open_repository()
        assert (plane.ready(), loaded(plane), plane.names) == (True, [], ["four", "one", "three", "two"])
        for name in ("one", "two", "three"):
            assert await added(plane, name) == {"one": 1, "two": 2, "three": 3}[name]
            clock.now_s += 40
        gauge = "hedgerow_server_model_memory_bytes"
        assert plane.metrics.registry.get_sample_value(gauge, {"model": "two"}) == 200 * MB
        await added(plane, "one")
        clock.now_s += 1
        assert await added(plane, "four") == 4
        assert loaded(plane) == ["four", "one"]  # two went first, which was not enough
        assert unloads(plane, "room") == 2
        assert plane.metrics.registry.get_sample_value(gauge, {"model": "two"}) is None
        states = {each.name: (each.state, each.reason) for each in await plane.index()}
        assert states["two"] == ("UNAVAILABLE", "it made room for four; a request loads it")
        assert states["one"] == ("READY", "")
        clock.now_s += 40
        assert await added(plane, "two") == 2

    with_plane(work, root, Rules(600 * MB))


def test_a_model_that_was_measured_too_large_is_refused_and_not_loaded_again(root: Path, monkeypatch) -> None:
    loads: list[str] = []
    measured = library.memory.measured

    def counted(folder, load):
        loads.append(folder.parent.name)
        return measured(folder, load)

    monkeypatch.setattr(library.memory, "measured", counted)

    async def work(plane: DataPlane, _: Clock) -> None:
        await plane.open_repository()
        assert loaded(plane) == ["one"]
        for _ in range(2):
            with pytest.raises(DoesNotFit, match=r"'three' needs 300 MB; .* 350 MB, 250 MB .*one 100 MB \(pinned\)"):
                await added(plane, "three")
        assert loads == ["one", "three"]
        assert loaded(plane) == ["one"]
        index = {each.name: each for each in await plane.index()}
        assert "needs 300 MB" in index["three"].reason
        assert await added(plane, "two") == 2

    with_plane(work, root, Rules(350 * MB, pins=frozenset({"one"})))


def test_a_model_in_use_or_just_loaded_does_not_give_way(root: Path) -> None:
    async def work(plane: DataPlane, clock: Clock) -> None:
        await plane.open_repository()
        await added(plane, "two")
        with pytest.raises(Overloaded, match=r"two 200 MB \(just loaded\)") as caught:
            await added(plane, "three")
        assert caught.value.retry_after_s == 30
        clock.now_s += 30
        with plane.serving("two").hold(), pytest.raises(Overloaded, match=r"two 200 MB \(in use\)"):
            await added(plane, "three")
        assert await added(plane, "three") == 3
        assert loaded(plane) == ["three"]

    with_plane(work, root, Rules(400 * MB))


def test_idle_models_are_unloaded_and_pinned_ones_are_not(root: Path) -> None:
    async def work(plane: DataPlane, clock: Clock) -> None:
        await plane.open_repository()
        await added(plane, "two")
        clock.now_s += 50
        await added(plane, "three")
        clock.now_s += 10
        assert await plane._library.sweep() == 50
        assert loaded(plane) == ["one", "three"]
        clock.now_s += 50
        await plane._library.sweep()
        assert (loaded(plane), unloads(plane, "idle")) == (["one"], 2)
        assert await added(plane, "three") == 3

    with_plane(work, root, Rules(keep_alive_s=60, pins=frozenset({"one"})))


def test_many_callers_wait_for_one_load_and_one_who_leaves_ends_nothing(root: Path) -> None:
    async def work(plane: DataPlane, _: Clock) -> None:
        await plane.open_repository()
        tasks = [asyncio.create_task(added(plane, "two")) for _ in range(3)]
        await support.until(lambda: plane._library._bringing)
        tasks[0].cancel()
        assert await asyncio.gather(*tasks[1:]) == [2, 2]
        assert not plane._library._bringing

    with_plane(work, root, Rules(300 * MB))


def test_a_load_that_fails_is_told_to_everyone_and_tried_again(root: Path) -> None:
    good = (root / "two" / "1" / "model.onnx").read_bytes()
    (root / "two" / "1" / "model.onnx").write_bytes(b"junk")

    async def work(plane: DataPlane, _: Clock) -> None:
        await plane.open_repository()
        results = await asyncio.gather(*(added(plane, "two") for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in results] == [Unusable, Unusable]
        (root / "two" / "1" / "model.onnx").write_bytes(good)
        assert await added(plane, "two") == 2

    with_plane(work, root, Rules(300 * MB))


def test_an_unload_gives_memory_back_and_a_request_loads_again(root: Path) -> None:
    async def work(plane: DataPlane, _: Clock) -> None:
        await plane.open_repository()
        await plane.load("two")
        await plane.unload("two")
        assert (loaded(plane), unloads(plane, "asked")) == ([], 1)
        with pytest.raises(NotFound, match="'two' is not loaded; a request loads it"):
            plane.served("two")
        assert await added(plane, "two") == 2

    with_plane(work, root, Rules(300 * MB))


def test_pinned_models_that_do_not_fit_end_the_start(root: Path) -> None:
    async def work(plane: DataPlane, _: Clock) -> None:
        with pytest.raises(DoesNotFit, match=r"'two' needs 200 MB; of the budget of 250 MB, 150 MB are free"):
            await plane.open_repository()

    with_plane(work, root, Rules(250 * MB, pins=frozenset({"one", "two"})))


@pytest.fixture
def large(tmp_path: Path) -> InferRequest:
    """A model of 8 MB; a request for it."""
    weights = support.helper.make_tensor("c", support.TensorProto.FLOAT, [2, MB], np.ones(2 * MB, np.float32))
    sides = [[(name, support.TensorProto.FLOAT, ["n", 2 if name == "x" else MB])] for name in "xy"]
    node = support.helper.make_node("MatMul", ["x", "c"], ["y"])
    support.write_graph(tmp_path / "large" / "1", [node], *sides, [weights])
    return InferRequest("large", {"x": np.ones((1, 2), np.float32)})


async def size_in_service(plane: DataPlane, ask: InferRequest) -> float:
    await plane.open_repository()
    await plane.infer(ask, protocol="t")
    return plane.metrics.registry.get_sample_value("hedgerow_server_model_memory_bytes", {"model": ask.model})


def test_the_files_size_refuses_what_is_larger_than_the_budget_before_it_is_loaded(large, tmp_path: Path) -> None:
    async def refused(plane: DataPlane, _: Clock) -> None:
        await plane.open_repository()
        with pytest.raises(DoesNotFit, match=r"'large' needs 9 MB; of the budget of 4 MB"):
            await plane.infer(large, protocol="t")

    async def fits(plane: DataPlane, _: Clock) -> None:
        assert 8 * MB <= await size_in_service(plane, large) < 64 * MB

    with_plane(refused, tmp_path, Rules(4 * MB))
    with_plane(fits, tmp_path, Rules(64 * MB))


def test_what_others_let_go_of_meanwhile_does_not_make_a_model_smaller_than_its_files(
    large, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(library.memory, "measured", lambda _, load: (load(), 0))

    async def work(plane: DataPlane, _: Clock) -> None:
        assert 8 * MB <= await size_in_service(plane, large) < 9 * MB

    with_plane(work, tmp_path, Rules(64 * MB))


# ── the whole process ───────────────────────────────────────────────────────


def test_a_workstation_loads_what_it_is_asked_for(tmp_path: Path, running) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        support.write_add(tmp_path / "models" / name / "1", number)
    port = support.free_port()
    server = support.Process(
        tmp_path,
        *("--repository", str(tmp_path / "models"), "--http", f"127.0.0.1:{port}", "--grpc", "none"),
        *("--memory-budget", "500", "--keep-alive", "1", "--minimum-stay", "0", "--pin", "one"),
    )
    running.append(server)
    server.until(lambda: support.answers(port) == 200, "ready")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=support.PATIENCE_S) as client:

        def states() -> dict[str, str]:
            return {each["name"]: each["state"] for each in client.post("/v2/repository/index").json()}

        assert states() == {"one": "READY", "two": "UNAVAILABLE"}
        assert client.get("/v2/models/two/ready").status_code == 200
        assert client.get("/v2/models/two").json()["inputs"][0]["name"] == "x"
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["one", "two"]
        server.until(lambda: states() == {"one": "READY", "two": "UNAVAILABLE"}, "unloaded")
        asked = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}
        assert client.post("/v2/models/two/infer", json=asked).json()["outputs"][0]["data"] == [3, 3]
        assert client.get("/health/report").json()["model"]["name"] == "one"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--pin", "one"], "--pin is for models that would be unloaded otherwise"),
        (["--keep-alive", "5", "--pin", "other"], "no model other in"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, arguments: list[str], says: str) -> None:
    support.write_add(tmp_path / "one" / "1", 1)
    with pytest.raises(UsageError, match=says):
        serve.main(["--repository", str(tmp_path), *arguments], standalone_mode=False)
