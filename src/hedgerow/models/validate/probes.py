"""What two builds are compared on: tensors (``.npz``) or texts and prompts (YAML).

```yaml
schema: 1
texts:            # perplexity and logits, token by token
  - The hedge runs along the field …
prompts:          # greedy answers
  - ask: What is the capital of France?
    must_contain: Paris
    reference: The capital of France is Paris.
    max_tokens: 24
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hedgerow import configfile
from hedgerow.errors import UsageError
from hedgerow.models import quantize_calibration
from hedgerow.models.quantize_calibration import Inputs

_Line = Annotated[str, Meta(min_length=1)]
MAX_TOKENS: Final = 512


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question; ``reference`` is a good answer, ``must_contain`` the least a healthy build says."""

    ask: _Line
    reference: _Line | None = None
    must_contain: _Line | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 48


class TextProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts and prompts; ``tokens`` of each text are read at most."""

    schema: Literal[1]
    texts: tuple[_Line, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    tokens: Annotated[int, Meta(ge=2, le=8192)] = 512

    def __post_init__(self) -> None:
        if not self.texts and not self.prompts:
            raise ValueError("a probe needs texts or prompts")


def load(path: Path) -> Inputs | TextProbe:
    """Read a probe: ``.npz`` or a folder of such files, else YAML.

    Raises:
        UsageError: nothing there, or it breaks a rule; the message names the key.
    """
    if path.is_dir() or path.suffix == ".npz":
        return quantize_calibration.load(path)
    try:
        return configfile.decode(path.read_bytes(), TextProbe)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"no usable probe: {error}", where=str(path), next_step="see docs/proving-models.md for an example"
        ) from error
