"""A repository in a folder, a device that trusts its first root, and a clock that tests set."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.source import FolderSource


def _support():
    """The helper module beside the tests; pytest's importlib mode puts nothing on sys.path."""
    name = "client_support"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("support.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


support = _support()


@pytest.fixture(scope="session")
def client_support():
    return support


@pytest.fixture
def clock():
    return support.Clock()


@pytest.fixture
def repository(tmp_path, clock):
    """``assistant@1.0.0`` is built and approved."""
    made = support.Repository(tmp_path / "registry", clock)
    made.released()
    return made


@pytest.fixture
def trust_dir(repository, tmp_path):
    return support.device_trust(repository, tmp_path / "trust")


@pytest.fixture
def device(repository, trust_dir, clock):
    """Makes a new view of the registry, as every command of a device does."""

    def view(*, now=None, synced=None, **options):
        at = clock if now is None else lambda: now
        return Trusted(FolderSource(repository.folder), trust_dir, now=at, synced=synced, **options)

    return view
