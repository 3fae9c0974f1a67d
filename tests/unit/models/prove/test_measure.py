import json
import os
from datetime import date
from pathlib import Path

import pytest

from hedgerow.errors import MachineError, UsageError
from hedgerow.models import measure, measure_machine, measure_worker
from hedgerow.models.measure import Plan
from hedgerow.registry import bundle, manifest

TODAY = date(2026, 11, 20)
MACHINE = manifest.Machine("a board", "4 x Cortex-A76", 16000)


@pytest.fixture
def worker(monkeypatch):
    """No process: prepared answers, and the commands that were asked for."""
    asked = []

    def ask(prefix, job):
        asked.append((tuple(prefix), job))
        load = 10.0 * len(asked)
        return {"load_ms": load, "latency_ms": [1.0, 2.0, 3.0, 4.0], "peak_memory_mb": 90.0 + len(asked)}

    def at_rest(prefix, job):
        return ask(prefix, job) | {"waited": 0.9 if prefix else 0.1}

    monkeypatch.setattr(measure, "_ask", at_rest)
    return asked


def test_conditions_become_expectations(make_bundle, worker, monkeypatch, tmp_path):
    folder = make_bundle("mlp")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr(measure.measure_machine, "throttle", lambda threads: original(threads, run=tmp_path / "run"))
    monkeypatch.setattr(measure_machine.shutil, "which", lambda _name: "/usr/bin/systemd-run")
    found = measure.measure(folder, Plan(requests=4, threads=2), today=TODAY, machine=MACHINE)
    full, throttled, cold = found.expectations
    assert [each.condition for each in found.expectations] == ["full-power", "throttled", "cold-start"]
    assert (full.p50_ms, full.p95_ms, full.requests, full.how) == (2.5, 3.85, 4, None)
    assert worker[0][0] == ()
    assert "--property=CPUQuota=125%" in worker[1][0]
    assert "62.5% of 2 processors" in throttled.how
    assert (cold.load_ms, cold.p50_ms, cold.requests) == (40.0, None, 3)  # the median of 30, 40 and 50
    assert "posix_fadvise" in cold.how
    assert full.machine == MACHINE
    assert not found.busy  # the throttled one waited, as it should
    assert full.measured == "2026-11-20"


original = measure_machine.throttle


def test_a_machine_that_cannot_throttle_says_so(make_bundle, worker, tmp_path, monkeypatch):
    monkeypatch.setattr(
        measure.measure_machine, "throttle", lambda threads: original(threads, cgroups=tmp_path / "no", run=tmp_path)
    )
    found = measure.measure(make_bundle("mlp"), Plan(("throttled",)), today=TODAY, machine=MACHINE)
    assert found.expectations == ()
    assert "no throttled figures: no systemd" in found.remarks[0]


@pytest.mark.parametrize(
    "controllers,expected",
    [(True, {"cpu.max": "6250 10000"}), (False, {"cpu.cfs_quota_us": "6250", "cpu.cfs_period_us": "10000"})],
)
def test_a_control_group_of_either_version(tmp_path, controllers, expected):
    (tmp_path / "cpu").mkdir()
    if controllers:
        (tmp_path / "cgroup.controllers").touch()
    with original(1, cgroups=tmp_path, run=tmp_path) as throttle:
        (group,) = [each for each in [*tmp_path.iterdir(), *(tmp_path / "cpu").iterdir()] if "bench" in each.name]
        assert {each.name: each.read_text() for each in group.iterdir()} == expected
        assert f'"{group}/cgroup.procs"' in throttle.prefix[2]
        for each in group.iterdir():  # a real group's files go with it
            each.unlink()
    assert not group.exists()


def test_too_much_memory_is_remarked(make_bundle, worker):
    found = measure.measure(
        make_bundle("mlp", requires=manifest.Requires(memory_mb=50)),
        Plan(("full-power",)),
        today=TODAY,
        machine=MACHINE,
    )
    assert "91 MB at the peak, and requires.memory_mb is 50" in found.remarks[0]


def test_figures_are_written_into_the_manifest_of_the_right_variant(make_bundle, worker, hedgerow, tmp_path):
    source = make_bundle("mlp")
    arguments = ["--variant", "full=float32", "--variant", "half=float32,prune=0.5", "--output", tmp_path / "both"]
    assert hedgerow("model", "quantize", source, *arguments)[0] == 0
    half = measure.measure(tmp_path / "both", Plan(("full-power",)), today=TODAY, variant="half", machine=MACHINE)
    measure.write(tmp_path / "both", [half])
    variants = bundle.verify_files(tmp_path / "both").manifest.variants
    assert [len(each.expectations) for each in variants] == [0, 1]
    code, out, _ = hedgerow("model", "bench", tmp_path / "both", "--condition", "full-power", "--write", "--json")
    assert code == 0
    assert [each["variant"] for each in json.loads(out)] == ["full", "half"]
    variants = bundle.verify_files(tmp_path / "both").manifest.variants
    assert [len(each.expectations) for each in variants] == [1, 1]
    assert hedgerow("model", "bench", tmp_path / "both", "--variant", "third")[0] == 2


def test_a_plain_bundle_gets_them_at_the_top(make_bundle, worker, hedgerow):
    folder = make_bundle("mlp")
    code, out, _ = hedgerow(
        "model", "bench", folder, "--condition", "full-power", "--condition", "cold-start", "--write"
    )
    assert code == 0
    assert "cold-start" in out
    document = bundle.verify_files(folder).manifest
    assert [each.condition for each in document.expectations] == ["full-power", "cold-start"]


def test_figures_of_a_busy_machine_are_shown_and_not_written(make_bundle, worker, hedgerow, monkeypatch):
    at_rest = measure._ask
    monkeypatch.setattr(measure, "_ask", lambda prefix, job: at_rest(prefix, job) | {"waited": 0.4})
    folder = make_bundle("mlp")
    before = bundle.load(folder).sha256
    code, out, err = hedgerow("model", "bench", folder, "--condition", "full-power", "--write")
    assert code == 3
    assert "full-power" in out
    assert "waited 40% of its time" in err
    assert "measured-at-rest" in err
    assert bundle.verify_files(folder).sha256 == before
    assert hedgerow("model", "bench", folder, "--condition", "full-power")[0] == 0


def test_waiting_is_read_of_all_threads(tmp_path):
    for name, text in (("1", "300 50 9\n"), ("2", "100 50 9\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    assert measure_worker._waited(tmp_path) == pytest.approx(0.2)
    assert measure_worker._waited(tmp_path / "none") == 0


def test_a_worker_that_fails_is_an_error_with_its_last_line(make_bundle, monkeypatch):
    monkeypatch.setattr(measure, "_WORKER", "hedgerow.no_such_module")
    with pytest.raises(MachineError, match="no_such_module"):
        measure.measure(make_bundle("mlp"), Plan(("full-power",)), today=TODAY, machine=MACHINE)


def test_the_worker_runs_a_model(make_bundle, monkeypatch, capsys, tmp_path, tiny):
    import numpy as np

    folder = make_bundle("mlp")
    np.savez(tmp_path / "feed.npz", **tiny.samples("mlp", count=1))
    job = {"model": str(folder / "model.onnx"), "folder": str(folder), "generates": False, "requests": 3, "threads": 1}
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(job | {"feed": str(tmp_path / "feed.npz")})])
    measure_worker.main()
    found = json.loads(capsys.readouterr().out)
    assert len(found["latency_ms"]) == 3
    assert min(found["latency_ms"]) > 0
    assert found["load_ms"] > min(found["latency_ms"])
    assert 10 < found["peak_memory_mb"] < 10_000


@pytest.mark.slow
def test_a_real_measurement(make_bundle):
    found = measure.measure(make_bundle("mlp"), Plan(requests=3), today=TODAY)
    by_name = {each.condition: each for each in found.expectations}
    assert set(by_name) | {"throttled"} == set(measure.CONDITIONS)
    assert by_name["full-power"].p50_ms > 0
    assert by_name["cold-start"].load_ms > by_name["full-power"].p50_ms
    left_out = any("no throttled figures" in each for each in found.remarks)
    assert ("throttled" in by_name) != left_out
    assert 0 <= found.waited < 1


def test_a_bundle_without_a_question_for_its_model_is_refused(make_bundle):
    text = manifest.GoldenText((manifest.Message("user", "hello"),), "hello")
    with pytest.raises(UsageError, match="no golden question"):
        measure.measure(make_bundle("mlp", golden=(text,)), Plan(), today=TODAY, machine=MACHINE)


def test_processors_are_named(tmp_path):
    arm = "processor\t: 0\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nCPU part\t: 0xd0b\n"
    assert measure_machine._processor(arm) == "2 x Cortex-A76"
    assert measure_machine._processor("processor\t: 0\nmodel name\t: Big Chip 9\n") == "1 x Big Chip 9"
    assert measure_machine._processor("processor\t: 0\nCPU part\t: 0xfff\n") == "1 x Arm part 0xfff"


def test_this_machine_is_described(monkeypatch):
    monkeypatch.setattr(measure_machine.hardware, "hardware_root", lambda root=None: Path(root or "/"))
    found = measure_machine.describe()
    assert found.memory_mb > 100
    assert found.kernel == os.uname().release
    assert not found.emulated


def test_dropped_pages_are_counted(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20))
    assert path.read_bytes()  # in the cache now
    with path.open("rb") as file:
        assert sum(measure_machine._resident(file.fileno(), 1 << 20)) == 256
    assert 0 <= measure_machine.drop_cached([path]) <= 1
    (tmp_path / "empty").touch()
    assert measure_machine.drop_cached([tmp_path / "empty"]) == 0
