import json
import sys

import pytest

from hedgerow.demo import runner
from hedgerow.demo.steps import Step
from hedgerow.errors import PartialError


def python(name, code, **kwargs):
    return Step(name, f"run {name}", (sys.executable, "-c", code), **kwargs)


@pytest.fixture
def run(tmp_path):
    return runner.Runner(cwd=tmp_path, log_dir=tmp_path / "logs")


def test_a_step_waits_for_the_background_step_it_needs(run, tmp_path):
    wait_for_go = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\nopen('built', 'w')"
    run.run(
        [
            python("build", wait_for_go, background=True),
            python("meanwhile", "open('go', 'w')"),
            python("use", "open('built')", after=("build",)),
        ]
    )
    assert (tmp_path / "built").exists()
    assert set(run.timings) == {"build", "meanwhile", "use"}


def test_a_failed_step_stops_the_rest_and_says_how_to_go_on(run, tmp_path):
    with pytest.raises(PartialError, match=r"step 'bad' .* exit code 7") as caught:
        run.run([python("bad", "raise SystemExit(7)"), python("never", "open('never', 'w')")])
    assert "run the demo again" in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_a_failed_background_step_shows_its_log(run, capfd):
    with pytest.raises(PartialError):
        run.run([python("build", "raise SystemExit('the disk is full')", background=True)])
    assert "the disk is full" in capfd.readouterr().err


def test_background_steps_are_stopped_when_another_fails(run):
    steps = [python("long", "import time; time.sleep(600)", background=True), python("bad", "raise SystemExit(1)")]
    with pytest.raises(PartialError):
        run.run(steps)
    assert all(job.process.returncode is not None for job in run._jobs.values())


def test_timings_are_kept(tmp_path):
    runner.write_timings(tmp_path / "t.json", {"a": 1.234}, 2.0)
    assert json.loads((tmp_path / "t.json").read_text()) == {"steps_s": {"a": 1.23}, "total_s": 2.0}
