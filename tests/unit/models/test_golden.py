import pytest

from hedgerow.errors import PublisherError
from hedgerow.models import golden
from hedgerow.models.genai import Answer, Generator
from hedgerow.models.golden import Question
from hedgerow.models.importer import ImportRequest, import_gguf
from hedgerow.registry.manifest import Message, Source

HELLO = (Message("user", "hello"),)


@pytest.fixture(scope="module")
def generator(tiny_gguf, tmp_path_factory):
    request = ImportRequest(tiny_gguf, "tiny", "1.0.0", "Apache-2.0", (Source("tiny.gguf"),))
    return Generator(import_gguf(request, cache=tmp_path_factory.mktemp("bundles")))


class Scripted:
    """A generator that gives prepared answers."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, _folder):
        return self

    def prompt(self, messages):
        return [len(messages)]

    def greedy(self, _prompt, **_):
        return self.answers.pop(0)


def record(monkeypatch, tmp_path, *answers, must_contain=None):
    monkeypatch.setattr(golden, "Generator", Scripted(*answers))
    questions = [Question(f"question {number}") for number in range(len(answers))]
    questions[0] = Question("question 0", must_contain=must_contain)
    return golden.record(tmp_path, tuple(questions))


def test_the_chat_template_and_merges_are_applied(generator):
    # <|im_start|> u s e r \n hello(262) <|im_end|> \n <|im_start|> a s s i s t a n t \n
    prompt = generator.prompt(HELLO)
    assert prompt[0] == 1
    assert 262 in prompt
    assert prompt.count(1) == 2
    assert prompt.count(2) == 1


def test_decisive_ends_before_the_first_close_call(generator):
    prompt = generator.prompt(HELLO)
    whole = generator.greedy(prompt, max_tokens=16)
    assert whole.decisive == whole.text.rstrip("\N{REPLACEMENT CHARACTER}")
    assert generator.greedy(prompt, max_tokens=16, margin=1e9).decisive == ""
    some = generator.greedy(prompt, max_tokens=16, margin=0.5).decisive
    assert whole.text.startswith(some)


def test_greedy_stops_at_the_limit_and_repeats_itself(generator):
    prompt = generator.prompt(HELLO)
    first, second = (generator.greedy(prompt, max_tokens=8) for _ in range(2))
    assert first == second
    assert 1 <= len(first.tokens) <= 8


def test_decisive_answers_become_prefixes(monkeypatch, tmp_path):
    found = record(monkeypatch, tmp_path, Answer("Paris, perhaps", (1, 2), "Paris"), Answer("cold", (3,), ""))
    assert [(text.expect, text.match) for text in found] == [("Paris", "prefix")]
    assert found[0].messages == (Message("user", "question 0"),)


def test_without_a_decisive_answer_a_whole_one_is_kept(monkeypatch, tmp_path):
    found = record(monkeypatch, tmp_path, Answer("so", (1,), ""), Answer("or so", (2,), ""))
    assert [text.expect for text in found] == ["so"]


def test_a_wrong_answer_refuses_the_bundle(monkeypatch, tmp_path):
    with pytest.raises(PublisherError, match="answered 'Lyon', without 'Paris'"):
        record(monkeypatch, tmp_path, Answer("Lyon", (1,), "Lyon"), must_contain="Paris")


def test_silence_refuses_the_bundle(monkeypatch, tmp_path):
    with pytest.raises(PublisherError, match="every answer was empty"):
        record(monkeypatch, tmp_path, Answer("", (), ""), Answer("", (), ""))
