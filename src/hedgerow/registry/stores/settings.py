"""A store's address: a folder, or ``s3://BUCKET/PREFIX?SETTING=…``. Pure; holds no secret.

One line says all, so that an inventory, ``authority.yml`` and a command line say it alike. Credentials are never in it:
S3's come by the standard chain of AWS's tools (environment, ``~/.aws``, profile, container, instance).

| setting | means | default |
|---|---|---|
| `endpoint` | http(s) address of a server that is not AWS | AWS's own |
| `region` | what requests are signed for | as AWS's tools find it, else `us-east-1` |
| `path_style` | `true`: the bucket is in the path, not in the host's name | `true` with an endpoint, else `false` |
| `sse` | encryption at rest: `AES256` or `aws:kms` | as the bucket is configured |
| `kms_key` | id, alias or ARN of the key, with `sse=aws:kms` | AWS's managed key |
| `ca` | file of the CA that signed the endpoint's certificate | the system's |
| `profile` | which profile of `~/.aws` | `AWS_PROFILE`, else `default` |
| `attempts` | tries of one request before it is given up, 1 to 20 | 6 |
| `conditional` | `false`: the server is known to ignore `If-Match`; leases are then settled by waiting | found out |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import check_path

Encryption: TypeAlias = Literal["AES256", "aws:kms"]

DEFAULT_REGION: Final = "us-east-1"
DEFAULT_ATTEMPTS: Final = 6
_MAX_ATTEMPTS: Final = 20
# Amazon S3 user guide, "General purpose bucket naming rules".
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_FORM: Final = "write a folder, or s3://BUCKET/PREFIX?SETTING=VALUE; docs/stores.md lists the settings"


@dataclass(frozen=True)
class FolderSettings:
    """A folder of this machine."""

    folder: str


@dataclass(frozen=True)
class S3Settings:
    """A bucket, and where in it; see the module for each setting. ``prefix`` has no slash at its ends."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    sse: Encryption | None = None
    kms_key: str | None = None
    ca: str | None = None
    profile: str | None = None
    attempts: int = DEFAULT_ATTEMPTS
    conditional: bool = True

    @property
    def where(self) -> str:
        """``s3://BUCKET/PREFIX``, with the endpoint where it is not AWS's."""
        place = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return place if self.endpoint is None else f"{place}?{urlencode({'endpoint': self.endpoint}, safe=':/')}"


StoreSettings: TypeAlias = FolderSettings | S3Settings


def parse(location: str) -> StoreSettings:
    """Read a store's address.

    Raises:
        UsageError: says what is wrong with it, and where.
    """
    scheme, separator, rest = location.partition("://")
    if not location.strip():
        raise _wrong("the store's address is empty", location)
    if not separator:
        return FolderSettings(location)
    if scheme == "file":
        if not rest.startswith("/"):
            raise _wrong("a file address has three slashes and an absolute path", location)
        return FolderSettings(unquote(rest))
    if scheme != "s3":
        raise _wrong(f"{scheme!r} is no kind of store; there are folders and s3", location)
    return _s3(location)


def _s3(location: str) -> S3Settings:
    parts = urlsplit(location)
    if "@" in parts.netloc:
        # Not repeated in the error: it may hold a secret.
        raise _wrong("a store's address holds no credentials; they come by AWS's standard chain", "s3://…")
    if _BUCKET.fullmatch(parts.netloc) is None or ".." in parts.netloc:
        raise _wrong(f"{parts.netloc!r} is no bucket's name (3 to 63 of a-z, 0-9, '.', '-')", location)
    if parts.fragment:
        raise _wrong("an address of a store has no '#'", location)
    prefix = unquote(parts.path).strip("/")
    if prefix:
        try:
            check_path(prefix)
        except ValueError as error:
            raise _wrong(str(error), location) from error
    values = _values(parts.query, location)
    endpoint = values.get("endpoint")
    if endpoint is not None:
        _check_endpoint(endpoint, location)
    sse = _choice("sse", values.get("sse"), location)
    if values.get("kms_key") is not None and sse != "aws:kms":
        raise _wrong("kms_key is used with sse=aws:kms alone", location)
    if values.get("ca") is not None and (endpoint is None or not endpoint.startswith("https://")):
        raise _wrong("ca is used with an https endpoint alone", location)
    return S3Settings(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=None if endpoint is None else endpoint.rstrip("/"),
        region=values.get("region"),
        path_style=_flag("path_style", values, location, default=endpoint is not None),
        sse=sse,
        kms_key=values.get("kms_key"),
        ca=values.get("ca"),
        profile=values.get("profile"),
        attempts=_attempts(values.get("attempts"), location),
        conditional=_flag("conditional", values, location, default=True),
    )


_KNOWN: Final = frozenset({
    "endpoint", "region", "path_style", "sse", "kms_key", "ca", "profile", "attempts", "conditional",
})  # fmt: skip


def _values(query: str, location: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True)
    except ValueError as error:
        raise _wrong(f"{query!r} is not SETTING=VALUE&SETTING=VALUE", location) from error
    values: dict[str, str] = {}
    for key, value in pairs:
        if key in {"access_key", "secret_key", "aws_access_key_id", "aws_secret_access_key", "token", "password"}:
            raise _wrong("a store's address holds no credentials; they come by AWS's standard chain", "s3://…")
        if key not in _KNOWN:
            raise _wrong(f"there is no setting {key!r}; there are {', '.join(sorted(_KNOWN))}", location)
        if key in values or not value:
            raise _wrong(f"setting {key!r} {'stands twice' if key in values else 'is empty'}", location)
        values[key] = value
    return values


def _check_endpoint(endpoint: str, location: str) -> None:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or parts.query or parts.username is not None:
        raise _wrong(f"endpoint {endpoint!r} is not http://HOST:PORT or https://HOST:PORT", location)


def _choice(key: str, value: str | None, location: str) -> Encryption | None:
    match value:
        case None | "AES256" | "aws:kms":
            return value
    raise _wrong(f"{key} is {value!r}; it is AES256 or aws:kms", location)


def _flag(key: str, values: dict[str, str], location: str, *, default: bool) -> bool:
    match values.get(key):
        case None:
            return default
        case "true":
            return True
        case "false":
            return False
    raise _wrong(f"{key} is {values[key]!r}; it is true or false", location)


def _attempts(value: str | None, location: str) -> int:
    if value is None:
        return DEFAULT_ATTEMPTS
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= _MAX_ATTEMPTS:
        raise _wrong(f"attempts is {value!r}; it is a number from 1 to {_MAX_ATTEMPTS}", location)
    return int(value)


def _wrong(what: str, location: str) -> UsageError:
    return UsageError(what, where=f"store {location!r}", next_step=_FORM)
