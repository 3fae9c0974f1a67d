"""A request without personal data and secrets, and how much of each kind was taken out. Pure.

``hedgerow.server.redaction`` finds what has a shape and leaves ordinary numbers. What leaves a site is held to more: of
the rest, every number of seven digits or more goes, whatever it is. So a date of birth, a customer's number and a
telephone number without its marks stay here; so do harmless numbers.

Limits: what has no shape is not found. Names, postal addresses, what is spelled out ("john at example dot org"), and
numbers under seven digits leave, unless the policy names them (``words``).
"""

from __future__ import annotations

import collections
import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hedgerow.server.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hedgerow.server.backends import TextRequest

NUMBER: Final = "number"
_NUMBER = re.compile(r"(?<!\w)[+(]?[0-9](?:[ ./(),:\u00a0\u2010-\u2015-]{0,2}[0-9]){6,64}(?!\w)")


@dataclass(frozen=True)
class Scrubbed:
    """``found``: how often something was replaced, by kind. ``stop_kept``: whether the stop texts are as they were."""

    request: TextRequest
    found: Mapping[str, int]
    stop_kept: bool


def scrub(request: TextRequest, words: Sequence[str]) -> Scrubbed:
    """All texts of ``request`` that would leave."""
    redactor = Redactor(words=words)
    found: collections.Counter[str] = collections.Counter()

    def clean(text: str) -> str:
        found.update(finding.kind.value for finding in redactor.find(text))
        text, numbers = _NUMBER.subn(f"[{NUMBER}]", redactor.redact(text))
        found[NUMBER] += numbers
        return text

    messages = request.messages and [{**each, "content": clean(each["content"])} for each in request.messages]
    prompt = request.prompt and clean(request.prompt)
    stop = tuple(map(clean, request.stop))
    clean_request = dataclasses.replace(request, messages=messages, prompt=prompt, stop=stop)
    return Scrubbed(clean_request, {kind: found[kind] for kind in sorted(found) if found[kind]}, stop == request.stop)
