"""What went wrong in S3, said by who is at fault and what to type next.

Codes: Amazon S3 API reference, "Error responses", list of error codes; servers that speak S3 use the same. An answer to
HEAD has no body, so the HTTP status stands in for its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import botocore.exceptions as boto
from boto3.exceptions import Boto3Error
from urllib3.exceptions import HTTPError

from hedgerow.errors import HedgerowError, MachineError, NetworkError, RefusedError, UsageError

NOT_FOUND: Final = frozenset({"NoSuchKey", "404", "NotFound"})
# 409: another conditional write to the same key was under way; as good as having come second.
CONFLICT: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
BEYOND_ITS_END: Final = frozenset({"InvalidRange", "416"})
NOT_IMPLEMENTED: Final = frozenset({"NotImplemented", "501"})
_LOGIN: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.MetadataRetrievalError,
)
_SERVER_FAULT: Final = 500


@dataclass(frozen=True)
class _Row:
    """What a code means: ``what`` and ``next_step`` may hold ``{said}`` (the server's words) and ``{operation}``."""

    codes: frozenset[str]
    error: type[HedgerowError]
    what: str
    next_step: str


def _row(codes: str, error: type[HedgerowError], what: str, next_step: str) -> _Row:
    return _Row(frozenset(codes.split()), error, what, next_step)


_TABLE: Final = (
    _row(
        "NoSuchBucket",
        UsageError,
        "the store's bucket does not exist",
        "create it (docs/stores.md has its policy), or correct the store's address",
    ),
    _row("InvalidBucketName", UsageError, "the store's server refuses this bucket's name", "correct the address"),
    _row(
        "NotImplemented 501",
        UsageError,
        "the store's server does not know how to do this: {said}",
        "docs/stores.md says what a server must know",
    ),
    _row(
        "InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired "
        "InvalidSecurity NotSignedUp",
        UsageError,
        "the store does not know these credentials: {said}",
        "see AWS_PROFILE, the other variables AWS_* and ~/.aws, then correct or renew what gives these",
    ),
    _row(
        "RequestTimeTooSkewed RequestExpired",
        MachineError,
        "this machine's clock and the store's differ too much: {said}",
        "see timedatectl, set the clock (systemctl restart systemd-timesyncd), then run it again",
    ),
    _row(
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301",
        UsageError,
        "the bucket is in another region: {said}",
        "add region=… to the store's address",
    ),
    _row(
        "AccessDenied AllAccessDisabled AccountProblem Forbidden 403",
        RefusedError,
        "the store's policy forbids this: {said}",
        "allow s3:{operation} (docs/stores.md has the policy that a publisher needs)",
    ),
    _row(
        "SlowDown ServiceUnavailable Throttling ThrottlingException RequestLimitExceeded TooManyRequests Busy 503 429",
        NetworkError,
        "the store asks to slow down, after every try that was allowed: {said}",
        "wait some minutes, then run it again: what was written stays and is not sent twice",
    ),
)


def code(error: boto.ClientError) -> str:
    """The error's code; of an answer without a body its HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def retried(error: boto.ClientError) -> bool:
    """Whether an earlier try of the same request may have been carried out although its answer never came."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


@contextmanager
def naming(where: str, path: str = "") -> Iterator[None]:
    """Turn what boto3 raises inside into an error that a person can act upon; ``path`` is what was asked for."""
    place = f"{where}, {path}" if path else where
    try:
        yield
    except boto.ClientError as error:
        raise _answered(error, place) from error
    except Boto3Error as error:  # a transfer in parts wraps what its requests met
        cause = error.__cause__ or error.__context__
        if isinstance(cause, boto.ClientError):
            raise _answered(cause, place) from error
        raise _unanswered(cause or error, place) from error
    except (boto.BotoCoreError, HTTPError) as error:
        raise _unanswered(error, place) from error


def _answered(error: boto.ClientError, place: str) -> HedgerowError:
    name = code(error)
    said = str(error.response.get("Error", {}).get("Message") or name)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    for row in _TABLE:
        if name in row.codes:
            what, next_step = (
                text.format(said=said, operation=error.operation_name) for text in (row.what, row.next_step)
            )
            return row.error(what, where=place, next_step=next_step)
    if name.startswith("KMS."):
        return UsageError(
            f"the store's encryption key cannot be used: {said}",
            where=place,
            next_step="correct kms_key in the store's address, or allow these credentials to use the key",
        )
    if status >= _SERVER_FAULT or name == "RequestTimeout":
        return NetworkError(
            f"the store failed, after every try that was allowed: {said} (HTTP {status})",
            where=place,
            next_step="see the state of its server, then run it again: what was written stays and is not sent twice",
        )
    return UsageError(
        f"the store refuses {error.operation_name}: {said} ({name}, HTTP {status})",
        where=place,
        next_step="correct the store's address; docs/stores.md says what a server must know",
    )


def _unanswered(error: BaseException, place: str) -> HedgerowError:
    if isinstance(error, _LOGIN):
        return UsageError(
            f"no credentials for the store: {error}",
            where=place,
            next_step="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure",
        )
    if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.ConfigNotFound):
        return UsageError(
            f"AWS's configuration cannot be used: {error}",
            where=place,
            next_step="correct ~/.aws/config, or the profile",
        )
    if isinstance(error, boto.SSLError):
        return NetworkError(
            f"the store's certificate is not trusted: {error}",
            where=place,
            next_step="name the file of its CA in the store's address: ca=/path/ca.pem",
        )
    if isinstance(error, boto.ChecksumError | boto.FlexibleChecksumError):
        return NetworkError(
            f"what the store sent was damaged on its way: {error}", where=place, next_step="run it again"
        )
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError | HTTPError):
        return NetworkError(
            f"the store cannot be reached: {error}",
            where=place,
            next_step="see whether its server is on and the line works; then run it again: what was written stays",
        )
    return UsageError(
        f"the store cannot be used as it is described: {error}", where=place, next_step="see docs/stores.md"
    )
