"""Places that hold a registry, behind ``registry.store.ObjectStore``: a folder, or S3. Publisher's side; no device.

``open_store`` is the one door: nothing above it knows which place it is.
"""

from __future__ import annotations

from pathlib import Path

from hedgerow.registry.store import FolderStore, ObjectStore
from hedgerow.registry.stores.settings import FolderSettings, StoreSettings, parse

__all__ = ["open_store"]


def open_store(location: str | StoreSettings) -> ObjectStore:
    """Open the store at ``location``: a folder, ``file:///folder``, or ``s3://BUCKET/PREFIX?SETTING=…``.

    Nothing is asked of the place yet.

    Raises:
        UsageError: the address is none, or what it names of this machine (profile, CA file) is not there.
    """
    settings = parse(location) if isinstance(location, str) else location
    if isinstance(settings, FolderSettings):
        return FolderStore(Path(settings.folder))
    from hedgerow.registry.stores.s3 import S3Store  # boto3 takes a quarter of a second; a folder should not

    return S3Store(settings)
