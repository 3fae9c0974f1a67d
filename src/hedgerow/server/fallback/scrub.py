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
# The second form is bounded by what it takes: it gives nothing back, so that a long row of digits is looked at once.
_NUMBER = re.compile(r"(?<!\w)(?:[+(]?[0-9](?:[ ./(),:\u00a0\u2010-\u2015-]{0,2}[0-9]){6,64}(?!\w)|[0-9]{66,}+)")


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
        parts: list[str] = []
        place = 0
        for start, end, kinds in _regions(redactor, text):
            found.update(kinds)
            parts += [text[place:start], *(f"[{kind}]" for kind in kinds)]
            place = end
        # Once more: what stood against a finding may be a number by itself now.
        text, numbers = _NUMBER.subn(f"[{NUMBER}]", "".join((*parts, text[place:])))
        found[NUMBER] += numbers
        return text

    messages = request.messages and [{**each, "content": clean(each["content"])} for each in request.messages]
    prompt = request.prompt and clean(request.prompt)
    stop = tuple(map(clean, request.stop))
    clean_request = dataclasses.replace(request, messages=messages, prompt=prompt, stop=stop)
    return Scrubbed(clean_request, {kind: found[kind] for kind in sorted(found) if found[kind]}, stop == request.stop)


def _regions(redactor: Redactor, text: str) -> list[tuple[int, int, list[str]]]:
    """Start, end and kinds of what goes. A number in which something else was found goes whole, under that name."""
    spans = [(finding.start, finding.end, finding.kind.value) for finding in redactor.find(text)]
    spans += [(*match.span(), NUMBER) for match in _NUMBER.finditer(text)]
    regions: list[tuple[int, int, list[str]]] = []
    for start, end, kind in sorted(spans):
        if regions and start < regions[-1][1]:
            begin, until, kinds = regions[-1]
            regions[-1] = (begin, max(until, end), [*kinds, kind])
        else:
            regions.append((start, end, [kind]))
    return [(start, end, [kind for kind in kinds if kind != NUMBER] or [NUMBER]) for start, end, kinds in regions]
