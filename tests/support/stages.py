"""A real stage of a registry in a folder, with every key at hand: founded once a process, then copied.

Nothing here is a double: keys, metadata, packs and signatures are the product's own. Stretching passphrases and signing
ten roles takes a part of a second, which is why stages that are founded now come from one that was made before.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hedgerow.registry.authority import founding, publishing, releasing, settings
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.publishing import Published
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settling import Settled
from hedgerow.registry.packing.publish import packer
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import FolderStore

FLEET, STAGE = "meadow", "production"


@dataclass(frozen=True)
class Stage:
    """``folder`` is the stage's own, with ``authority.yml`` and keys; ``root`` the store's, which devices read."""

    folder: Path
    session: Session

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.root)

    @property
    def root(self) -> Path:
        return self.folder / settings.STORE

    def publish(self, bundle: Path) -> Published:
        """Build, approve and release."""
        return publishing.publish(self.session, bundle, packer=packer)

    def withdraw(self, reference: str) -> Settled:
        """Take a model's release back."""
        named = Reference.parse(reference)
        return releasing.withdraw(self.session, Wanted("model", named.name, named.version), note="a test")

    def refresh(self) -> Settled:
        """Renew the online roles."""
        return releasing.refresh(self.session)

    def anchor(self, trust_dir: Path) -> Path:
        """Place the first root as the role model_store does; the trust folder."""
        trust_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / "metadata" / "1.root.json", trust_dir / "root.json")
        return trust_dir


def found(
    folder: Path,
    *,
    now: Callable[[], datetime] | None = None,
    fleet: str = FLEET,
    name: str = STAGE,
    fresh: bool = False,
) -> Stage:
    """Found a stage in ``folder``. ``now``: its clock, which also dates its first metadata.

    ``fresh``: with keys of its own, as somebody else's registry has them; others in a process share theirs.
    """
    if now is not None or fresh or (fleet, name) != (FLEET, STAGE):
        session = _founded(folder, fleet, name, now)
    else:
        shutil.copytree(_template(), folder)
        session = Session.open(folder)
    if now is not None:
        session.now = now
    return Stage(folder, session)


def open_stage(folder: Path) -> Stage:
    """One that is there."""
    return Stage(folder, Session.open(folder))


def _founded(folder: Path, fleet: str, name: str, now: Callable[[], datetime] | None) -> Session:
    clock = now or (lambda: datetime.now(UTC).replace(microsecond=0))
    return founding.found(folder, fleet, name, passphrases=Passphrases(), unattended=True, now=clock)[0]


@functools.cache
def _template() -> Path:
    scratch = Path(tempfile.mkdtemp(prefix="hedgerow-stage-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    folder = scratch / "stage"
    _founded(folder, FLEET, STAGE, None)
    return folder
