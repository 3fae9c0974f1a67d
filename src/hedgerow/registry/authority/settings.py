"""``authority.yml``: where a stage's registry lies, how long its metadata lives, and by which URI each key is reached.

What a role's keys and threshold *are* stands in the signed metadata alone. This file says where their private parts
lie, and holds nothing that is secret.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from hedgerow import atomic, configfile, paths
from hedgerow import json_schema as schemas
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.manifest import NAME_PATTERN

FILE_NAME: Final = "authority.yml"
KEYS: Final = "keys"
STORE: Final = "registry"

KeyName = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Days = Annotated[float, Meta(gt=0, le=3650)]


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key: ``uri`` opens its private part, ``public`` is what metadata says of it, ``owner`` is who answers for it.

    ``pem:PATH`` (encrypted PKCS#8, relative to this file), ``hsm:ID?label=TOKEN`` (PKCS#11), ``awskms:``, ``gcpkms:``,
    ``azurekms:`` and ``hv:`` as securesystemslib reads them. ``passphrase_file`` is for keys that sign unattended.
    """

    uri: Text
    owner: Text
    keyid: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    public: dict[str, Any]
    passphrase_file: Text | None = None


class Lifetimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Days until metadata ends. The last two are renewed by a timer when a third of their life is left.

    root: the yearly ceremony. targets and delegations: half a year without any release. snapshot: a week of a broken
    timer. timestamp: a day's freeze at most.
    """

    root: Days = 365
    targets: Days = 180
    delegations: Days = 180
    snapshot: Days = 7
    timestamp: Days = 1

    def of(self, role: str) -> timedelta:
        """The life of a role's metadata."""
        days: float = getattr(self, role, self.delegations)
        return timedelta(days=days)


class Settings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``authority.yml``. ``store`` is a folder relative to this file, or an address that ``registry.stores`` opens.

    ``two_people``: who owns a key that built a release may not approve it. ``proofs``: a bundle without bill of
    materials, provenance and vulnerability report is not staged. ``pkcs11_module`` is the library of the
    token, for example ``/usr/lib/softhsm/libsofthsm2.so``.
    """

    schema: Literal[1]
    fleet: Text
    stage: KeyName
    keys: dict[KeyName, KeyEntry] = msgspec.field(default_factory=dict)
    store: Text = STORE
    lifetimes: Lifetimes = Lifetimes()
    two_people: bool = False
    proofs: bool = False
    pkcs11_module: Text | None = None


def folder(fleet: str, stage: str) -> Path:
    """Where a controller keeps a stage of a fleet."""
    return paths.stage_dir(fleet, stage)


def load(directory: Path) -> Settings:
    """Read ``directory/authority.yml``.

    Raises:
        UsageError: there is none, or it breaks a rule.
    """
    path = directory / FILE_NAME
    try:
        return configfile.decode(path.read_bytes(), Settings)
    except FileNotFoundError as error:
        raise UsageError(
            "this stage has no authority yet",
            where=str(path),
            next_step=f"hedgerow registry init --stage {directory.name}",
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"the authority's settings are not valid: {error}", where=str(path)) from error


def save(directory: Path, settings: Settings) -> None:
    """Write ``directory/authority.yml`` in one step."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    plain = msgspec.to_builtins(settings)
    atomic.write_text(directory / FILE_NAME, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def new(fleet: str, stage: str, store: str | None) -> Settings:
    """Settings of a stage without keys.

    Raises:
        UsageError: the stage has no good name.
    """
    try:
        return msgspec.convert(
            {"schema": 1, "fleet": fleet, "stage": stage} | ({} if store is None else {"store": store}), Settings
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"{stage!r} is no name of a stage: {error}", next_step="dev, stage, production …") from error


def with_module(settings: Settings, module: str | None) -> Settings:
    """``settings`` with the library of the token."""
    return msgspec.structs.replace(settings, pkcs11_module=module)


def add_key(settings: Settings, name: str, entry: KeyEntry) -> Settings:
    """``settings`` with one key more.

    Raises:
        RefusedError: the name is another key's, or the key has another name already.
    """
    for known, other in settings.keys.items():
        if (known == name) != (other.keyid == entry.keyid):
            raise RefusedError(
                f"{known} is {other.keyid[:12]}, the new key {name} would be {entry.keyid[:12]}: "
                "one name, one key (rule: one-name)",
                where=FILE_NAME,
                next_step="choose another name; a name is never given to a second key",
            )
    keys = settings.keys if name in settings.keys else {**settings.keys, name: entry}
    return msgspec.structs.replace(settings, keys=keys)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``authority.yml``, kept beside this module as ``authority.schema.json``."""
    return schemas.of(Settings, "Hedgerow registry authority")


if __name__ == "__main__":  # python -m hedgerow.registry.authority.settings > …/authority.schema.json
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201 -- this is the output
