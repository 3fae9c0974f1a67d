"""What a person and a program read of a plan and of a store; and the commands that print it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from click.testing import CliRunner
from tests.unit.device.store.conftest import NEW, OLD, whole

from hedgerow.device.cli import cli
from hedgerow.device.config import DeviceConfig
from hedgerow.device.store import view
from hedgerow.device.store.collect import Collected, Holding
from hedgerow.device.store.config import StoreConfig, Window
from hedgerow.device.store.stage import look, stage
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference


@pytest.fixture
def window():
    """The device's download window: none."""


@pytest.fixture
def command(device, releases, tmp_path, monkeypatch, window):
    """``hedgerow-device`` of this device; its registry's signatures are taken for granted."""
    config = DeviceConfig(
        store=StoreConfig(window=window),
        fleet="meadow",
        site="orchard",
        host="pi",
        serial="2" * 16,
        registry_url="https://registry",
        serving_model="assistant",
        models_dir=device.layout.models_dir,
        activation_dir=device.places.activation_dir,
        configuration_dir=device.places.configuration_dir,
        reserve_mb=1,
    )
    file = tmp_path / "device.yml"
    file.write_bytes(msgspec.yaml.encode(config, enc_hook=str))
    monkeypatch.setattr("hedgerow.registry.source.HttpsSource", lambda *_, **__: releases.registry)
    monkeypatch.setattr("hedgerow.registry.source.TlsFiles", lambda *_: None)
    monkeypatch.setattr(
        "hedgerow.registry.client.trusted.Trusted", lambda source, trust_dir, *, synced: releases.registry
    )

    def call(*words):
        return CliRunner().invoke(cli, [*words, "--config", str(file)])

    return call


def test_a_plan_tells_of_each_tensor_how_it_comes_and_why(device, releases):
    stage(releases.registry, releases.registry, OLD, device)
    plan = look(releases.registry, releases.registry, NEW, device)
    value = view.plan_json(plan)
    told = {(part["part"], part["how"]): part for part in value["parts"]}
    assert told["model.safetensors: body (int8)", "here"]["fetched"] == 0
    assert told["model.safetensors: head (int8)", "patch"]["reason"] == "cheaper than its chunk"
    assert told["model.safetensors: tail (int8)", "chunk"]["fetched"] == 250_000
    assert sum(part["size"] for part in value["parts"]) == sum(value["by"].values())
    assert value["from"] == [str(OLD)]
    text = view.plan_text(plan)
    assert text.splitlines()[1].startswith("model.safetensors: tail (int8)"), "the costliest first"
    assert f"{NEW}: {plan.fetched / 1e6:.2f} MB to fetch" in text


def test_what_is_kept_says_why():
    holdings = [
        Holding(Reference("assistant", "1.1.0"), finished=True, bytes=2_000_000, used=3, kept="current"),
        Holding(Reference("assistant", "1.2.0"), finished=False, bytes=500_000, used=2),
    ]
    lines = view.holdings_text(holdings, 7_000_000).splitlines()
    assert lines[1].split() == ["assistant@1.1.0", "whole", "2.00", "current"]
    assert lines[2].split() == ["assistant@1.2.0", "unfinished", "0.50", "may", "go"]
    assert lines[3] == "2.50 MB in all; 7.00 MB written by the store so far"


def test_what_went_and_what_is_over():
    gone = Holding(Reference("assistant", "1.0.0"), finished=True, bytes=1_000_000, used=1)
    text = view.collected_text(Collected((gone,), left=3_000_000, over=1_000_000), dry_run=True)
    assert text.splitlines()[0] == "would go: assistant@1.0.0, 1.00 MB"
    assert "1.00 MB over the budget" in text


def test_the_commands_from_plan_to_collection(command, device):
    looked = command("stage", str(OLD), "--plan", "--json")
    assert (looked.exit_code, json.loads(looked.stdout)["changed"]) == (0, False)
    assert not device.layout.version(OLD).exists()
    staged = json.loads(command("stage", str(OLD), "--json").stdout)
    assert (staged["changed"], staged["fetched"]) == (True, json.loads(looked.stdout)["fetched"])
    assert (staged["change"], staged["previous"], staged["model"]["version"]) == (str(OLD), None, OLD.version)
    assert staged["model"]["sha256"] == bundles.load(device.layout.version(OLD)).sha256
    assert staged["new_bytes"] == bundles.load(device.layout.version(OLD)).manifest.size
    assert whole(device, OLD)
    again = json.loads(command("stage", str(OLD), "--json").stdout)
    assert (again["changed"], again["new_bytes"], again["model"]) == (False, 0, staged["model"])
    assert "already" in command("stage", str(OLD)).stdout
    assert "came in" in command("stage", str(NEW)).stdout
    listed = json.loads(command("cache", "list", "--json").stdout)
    assert [each["version"] for each in listed["holdings"]] == [str(NEW), str(OLD)]
    assert listed["written"] == sum(listed["written_by"].values()) > staged["written"]
    assert json.loads(command("cache", "pin", str(OLD), "--json").stdout)["changed"]
    assert not json.loads(command("cache", "pin", str(OLD), "--json").stdout)["changed"]
    assert json.loads(command("cache", "collect", "--budget-mb", "0", "--json").stdout)["removed"] == []
    assert json.loads(command("cache", "unpin", str(OLD), "--json").stdout)["changed"]
    assert "would go: assistant@1.0.0" in command("cache", "collect", "--budget-mb", "0", "--dry-run").stdout
    assert whole(device, OLD)
    [gone] = json.loads(command("cache", "collect", "--budget-mb", "0", "--json").stdout)["removed"]
    assert gone["version"] == str(OLD)
    assert not device.layout.version(OLD).exists()
    assert whole(device, NEW)


def shut():
    """A window that is closed for the next eleven hours at least, whatever the time is."""
    now = datetime.now(UTC)
    return Window(from_=f"{(now.hour + 12) % 24}:00", to=f"{(now.hour + 13) % 24}:00")


@pytest.mark.parametrize("window", [shut()], ids=["shut"])
def test_the_window_counts_where_it_is_asked_for_alone(command, device, releases):
    refused = command("stage", str(OLD), "--in-window")
    assert refused.exception.exit_code == 3
    assert "the window opens at" in str(refused.exception)
    assert releases.registry.asked == []
    assert command("stage", str(OLD)).exit_code == 0
    assert whole(device, OLD)


@pytest.mark.parametrize(
    "words, says",
    [
        (("stage", "runtime:1.0.0", "--in-window"), "--in-window is for models"),
        (("stage", "configuration:0123456789ab", "--plan"), "--plan is for models"),
        (("stage", str(OLD), "--in-window", "--here"), "--in-window and --here exclude each other"),
        (("stage", str(OLD), "--plan", "--here"), "--plan and --here exclude each other"),
        (("cache", "pin", "assistant@9.9.9"), "is not on this device"),
        (("cache", "pin", "assistant"), "is not NAME@VERSION"),
    ],
)
def test_wrong_use_says_the_right_one(words, says, command):
    done = command(*words)
    assert says in str(done.exception)
    assert done.exception.exit_code == 2
