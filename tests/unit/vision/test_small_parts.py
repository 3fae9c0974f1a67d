"""Latest frame, drift, allowance, backoff: what needs no camera."""

from __future__ import annotations

import threading

import pytest
import server_support as support
import vision_support as vision

from hedgerow.vision.backoff import Backoff
from hedgerow.vision.config import When
from hedgerow.vision.detector import Detection
from hedgerow.vision.drift import ConfidenceDrift
from hedgerow.vision.exceptional import Allowance, reason
from hedgerow.vision.latest import Frame, LatestFrame


def frame(number: int) -> Frame:
    return Frame(vision.frame(vision.plain(0)), 0.0, number)


def test_only_the_newest_frame_is_kept():
    latest = LatestFrame()
    assert [latest.put(frame(n)) for n in (1, 2, 3)] == [False, True, True]
    taken = latest.take()
    assert taken is not None
    assert taken.number == 3
    assert latest.drop_ratio == pytest.approx(2 / 3)


def test_the_drop_ratio_is_of_the_last_frames():
    latest = LatestFrame()
    assert latest.drop_ratio == 0
    for number in range(400):
        latest.put(frame(number))
    assert latest.drop_ratio == 1
    for number in range(300):
        latest.take()
        latest.put(frame(number))
    assert latest.drop_ratio == 0


def test_waiting_for_a_place_drops_nothing():
    latest = LatestFrame()
    writer = threading.Thread(target=lambda: [latest.put(frame(n), wait=True) for n in range(20)])
    writer.start()
    numbers = [latest.take().number for _ in range(20)]
    writer.join(support.PATIENCE_S)
    assert numbers == list(range(20))
    assert latest.drop_ratio == 0


def test_closing_wakes_both_sides():
    latest = LatestFrame()
    latest.put(frame(1))
    writer = threading.Thread(target=lambda: latest.put(frame(2), wait=True))
    writer.start()
    latest.close(drop=True)
    writer.join(support.PATIENCE_S)
    assert not writer.is_alive()
    assert latest.take() is None
    assert latest.put(frame(3)) is False
    assert latest.take() is None


def test_the_last_frame_of_a_file_is_still_taken():
    latest = LatestFrame()
    latest.put(frame(7))
    latest.close()
    assert latest.take().number == 7
    assert latest.take() is None


def test_drift_is_held_to_what_was_learnt():
    drift = ConfidenceDrift(window=10, tolerance=0.1)
    assert drift.mean is None
    drift.add([0.8] * 9)
    assert drift.baseline is None
    drift.add([0.8])
    assert drift.baseline == pytest.approx(0.8)
    drift.add([0.6] * 4)  # the mean is 0.72
    assert not drift.alarm
    drift.add([0.6] * 3)  # 0.66
    assert drift.alarm
    drift.add([0.8] * 6)  # 0.72: within 0.1, not within half of it
    assert drift.mean == pytest.approx(0.72)
    assert drift.alarm
    drift.add([0.8] * 2)  # 0.76
    assert not drift.alarm


def test_drift_upwards_and_against_a_given_baseline():
    drift = ConfidenceDrift(window=10, tolerance=0.1, baseline=0.5)
    drift.add([0.9] * 9)
    assert not drift.alarm, "no whole window yet"
    drift.add([0.9])
    assert drift.alarm
    drift.reset()
    assert (drift.alarm, drift.mean, drift.baseline) == (False, None, 0.5)


def test_another_version_learns_anew():
    drift = ConfidenceDrift(window=10, tolerance=0.1)
    drift.add([0.9] * 10)
    drift.reset()
    assert drift.baseline is None
    drift.add([0.4] * 10)
    assert (drift.alarm, drift.baseline) == (False, pytest.approx(0.4))


def found(label: str, confidence: float) -> Detection:
    return Detection(label, confidence, (0, 0, 1, 1))


@pytest.mark.parametrize(
    "when,detections,drifting,expected",
    [
        (When(classes=("cat",)), [found("dog", 0.9), found("cat", 0.3)], False, "class"),
        (When(classes=("cat",)), [found("dog", 0.9)], True, None),
        (When(confidence_between=(0.3, 0.5)), [found("dog", 0.4)], False, "uncertain"),
        (When(confidence_between=(0.3, 0.5)), [found("dog", 0.6), found("dog", 0.2)], False, None),
        (When(drift=True), [], True, "drift"),
        (When(drift=True), [found("dog", 0.4)], False, None),
    ],
)
def test_exceptional_frames(when, detections, drifting, expected):
    assert reason(when, detections, drifting=drifting) == expected


def test_the_allowance_is_a_token_bucket():
    allowance = Allowance(per_hour=60, burst=2)
    assert [allowance.take(100.0) for _ in range(3)] == [True, True, False]
    assert not allowance.take(159.0)
    assert allowance.take(160.5)  # one a minute
    assert not allowance.take(161.0)
    assert [allowance.take(10_000.0) for _ in range(3)] == [True, True, False], "no more is saved up than a burst"


def test_backoff_doubles_to_a_bound_and_begins_again():
    backoff = Backoff(1.0, 5.0)
    assert [backoff.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_s() == 1
