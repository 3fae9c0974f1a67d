"""Golden answers: what a bundle answered where it was built, as far as every other processor will answer the same.

Greedy decoding takes the most probable token. Kernels of another processor move logits a little; where two tokens
are close, the answer tips, and from there on it is another text. Between int8 and float32 activations, a coarser
change than any between processors, the lead of the best token over the second moved by 0.16 nats on average and by
0.6 at the 99th percentile (docs/decisions/0002-model-import.md). So a golden answer ends before the first token that
led by less than ``MARGIN``, and is compared as a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import PublisherError
from hedgerow.models.genai import Generator
from hedgerow.registry.manifest import GoldenText, Message

MARGIN: Final = 0.75


@dataclass(frozen=True)
class Question:
    """One conversation's only message; ``must_contain`` is the least a healthy import answers."""

    text: str
    must_contain: str | None = None
    max_tokens: int = 24


GENERIC: Final = (
    Question("What is the capital of France?"),
    Question("What is the opposite of hot?"),
    Question("Name the planet we live on."),
    Question("What color is the sky on a clear day?"),
)


def record(folder: Path, questions: tuple[Question, ...]) -> tuple[GoldenText, ...]:
    """Ask each question and keep what was decisive; at least one answer is kept.

    Raises:
        PublisherError: an answer lacks what the question demands, or all of them are empty: the import is broken.
    """
    generator = Generator(folder)
    golden, fallback = [], []
    for question in questions:
        messages = (Message("user", question.text),)
        answer = generator.greedy(generator.prompt(messages), max_tokens=question.max_tokens, margin=MARGIN)
        if question.must_contain is not None and question.must_contain not in answer.text:
            raise PublisherError(
                f"the golden run failed: {question.text!r} was answered {answer.text!r}, "
                f"without {question.must_contain!r}",
                where=str(folder),
                next_step="try --quality faithful; if that fails too, the checkpoint is damaged or not what it says",
            )
        if answer.decisive:
            golden.append(GoldenText(messages, answer.decisive, max_tokens=question.max_tokens, match="prefix"))
        elif answer.text:
            fallback.append(GoldenText(messages, answer.text, max_tokens=question.max_tokens, match="prefix"))
    if not golden and not fallback:
        raise PublisherError(
            "the golden run failed: every answer was empty",
            where=str(folder),
            next_step="check the checkpoint's chat template and end-of-text token",
        )
    # A model without one decisive answer (tiny, untrained) is held to a whole one: better strict than unchecked.
    return tuple(golden) or (fallback[0],)
