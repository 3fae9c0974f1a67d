"""Tell people and programs how a rollout stands: a webhook, or a command for anything else.

- A message that does not get there changes nothing in the rollout: it is an
  event with its reason, journaled and printed.
- No URL's path, no header and no variable's value is in any reason or journal:
  many webhooks carry their secret in the URL.
- A redirect is refused, so that a secret goes where the policy says and nowhere else.
- The same message may arrive twice (a try whose answer was lost): its
  ``Idempotency-Key`` is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hedgerow.rollout import report
from hedgerow.rollout.events import Notified, State
from hedgerow.rollout.journal import timestamp
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.notify import About, Channel

BACKOFF_S = 1.0
"""Before the second try; doubled before the third, and so on."""
TOO_MANY = 429
CLIENT_ERROR, SERVER_ERROR = 400, 500
ERROR_SHOWN = 200
"""Characters of a command's last words that a reason quotes."""


def ending(state: State) -> About:
    """What a rollout that ends now has come to."""
    if state.superseding is not None and state.rolled_back is None:
        return "superseded"
    return "partial" if state.phase == "open" else state.phase  # type: ignore[return-value]


def message(state: State, about: About, *, rollout: str = "", at: str | None = None) -> dict[str, Any]:
    """What a channel is given."""
    return {
        "about": about,
        "rollout": rollout,
        "bundle": state.plan.release.bundle,
        "sha256": state.plan.release.sha256,
        "phase": about if about != "waiting" else "open",
        "at": at or timestamp(),
        "by": state.by,
        "opened_at": state.opened_at,
        "wave": state.wave,
        "waves": len(state.plan.waves),
        "counts": state.count(),
        "stopped": state.stopped,
        "waiting": None if state.waiting is None else {"code": state.waiting[0], "reason": state.waiting[1]},
        "text": "\n".join(report.summary(state)),
    }


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and who is to get it."""

    about: About
    body: str
    channels: list[Channel]

    @property
    def key(self) -> str:
        """The message's ``Idempotency-Key``."""
        return hashlib.sha256(self.body.encode()).hexdigest()


def errand(policy: Policy, state: State, about: About, *, rollout: str = "") -> Errand | None:
    """What is to be told whom; None: nobody wants to know ``about``."""
    channels = [channel for channel in policy.notify if about in channel.on]
    if not channels:
        return None
    return Errand(
        about=about, body=json.dumps(message(state, about, rollout=rollout), sort_keys=True), channels=channels
    )


def deliver(
    task: Errand,
    *,
    environ: Mapping[str, str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Notified]:
    """Tell every channel, all at once; what came of each, as soon as it has answered or failed.

    Takes at most the slowest channel's ``attempts`` × ``timeout_s`` and the pauses between. Never raises for what a
    channel does.
    """
    known = os.environ if environ is None else environ
    with ThreadPoolExecutor(max_workers=len(task.channels), thread_name_prefix="notify") as pool:
        for told in as_completed([pool.submit(_tell, channel, task, known, sleep) for channel in task.channels]):
            yield told.result()


def _tell(channel: Channel, task: Errand, environ: Mapping[str, str], sleep: Callable[[float], None]) -> Notified:
    try:
        if channel.command is not None:
            failed = _run(channel, task.body.encode())
        else:
            failed = _post(channel, task, environ, sleep)
    except Exception as error:  # noqa: BLE001 - whatever a channel is, the rollout's end is not to hang on it
        failed = f"{type(error).__name__}"
    through = name(channel, environ)
    return Notified(at=timestamp(), about=task.about, through=through, failed=failed, message=task.key)


def name(channel: Channel, environ: Mapping[str, str]) -> str:
    """The channel without anything that could be secret."""
    if channel.command is not None:
        return f"command {PurePath(channel.command[0]).name}"
    url = channel.webhook or environ.get(channel.webhook_env or "", "")
    return f"webhook {urlsplit(url).hostname or channel.webhook_env}"


# -- webhook ----------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _post(channel: Channel, task: Errand, environ: Mapping[str, str], sleep: Callable[[float], None]) -> str | None:
    for variable in (channel.webhook_env, channel.secret_env):
        if variable is not None and not environ.get(variable):
            return f"the environment has no {variable}"
    url = channel.webhook or environ[channel.webhook_env or ""]
    try:
        # One from the environment has not been held against the policy's rules for URLs yet.
        msgspec.convert({"webhook": url, "secret_env": channel.secret_env}, Channel)
    except msgspec.ValidationError:
        return f"what {channel.webhook_env} holds is no URL for a webhook"
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "hedgerow",
        "Idempotency-Key": task.key,
    }
    if channel.secret_env is not None:
        headers[channel.header] = environ[channel.secret_env]
    data = task.body.encode()
    request = urllib.request.Request(url, data=data, headers=headers, method="POST")  # noqa: S310 - http(s), see above
    return _try_often(request, channel, sleep)


def _try_often(request: urllib.request.Request, channel: Channel, sleep: Callable[[float], None]) -> str | None:
    failed, tries = "", 0
    for tries in range(1, channel.attempts + 1):
        if tries > 1:
            sleep(BACKOFF_S * 2 ** (tries - 2))
        answer = _try(request, channel.timeout_s)
        if answer is None:
            return None
        failed, again = answer
        if not again:
            break
    return f"{failed} ({tries} {'try' if tries == 1 else 'tries'})"


def _try(request: urllib.request.Request, timeout_s: float) -> tuple[str, bool] | None:
    """None: it got there. Else why not, and whether to try again."""
    try:
        with _OPENER.open(request, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        moved = " (a redirect; name the new address)" if error.code < CLIENT_ERROR else ""
        return f"it answered {error.code}{moved}", error.code >= SERVER_ERROR or error.code == TOO_MANY
    except urllib.error.URLError as error:
        cause = error.reason
        return f"no connection: {getattr(cause, 'strerror', None) or type(cause).__name__}", True
    except (OSError, HTTPException) as error:
        return f"no answer: {getattr(error, 'strerror', None) or type(error).__name__}", True


# -- command ----------------------------------------------------------------------


def _run(channel: Channel, body: bytes) -> str | None:
    try:
        process = subprocess.Popen(
            channel.command or [],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return f"it does not start: {error.strerror}"
    try:
        _, said = process.communicate(body, timeout=channel.timeout_s)
    except subprocess.TimeoutExpired:
        # The whole session: a shell script's children would hold the pipe open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"it took longer than {channel.timeout_s:g} s"
    if process.returncode == 0:
        return None
    words = said.decode(errors="replace").strip()[-ERROR_SHOWN:]
    return f"it ended with {process.returncode}{': ' + words if words else ''}"
