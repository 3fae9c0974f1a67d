import pytest

from hedgerow.errors import UsageError
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.tokenizer import read_tokenizer


def read(path):
    with GgufFile(path) as file:
        return read_tokenizer(file, context_length=128)


def test_vocabulary_merges_and_special_tokens(write_tiny):
    tokenizer = read(write_tiny())
    model = tokenizer.document["model"]
    assert model["merges"] == ["h e", "l l", "he ll", "hell o"]
    assert model["vocab"]["hello"] == 262
    assert [token["content"] for token in tokenizer.document["added_tokens"]] == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    ]  # fmt: skip
    assert all(token["special"] for token in tokenizer.document["added_tokens"])
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (1, (2,), 2)
    assert tokenizer.config["eos_token"] == "<|im_end|>"
    assert "im_start" in tokenizer.config["chat_template"]


def test_smollm_splits_digits_and_gpt2_does_not(write_tiny):
    assert read(write_tiny()).document["pre_tokenizer"]["pretokenizers"][0] == {
        "type": "Digits",
        "individual_digits": True,
    }
    assert read(write_tiny(pre="gpt-2")).document["pre_tokenizer"]["type"] == "ByteLevel"


def test_every_end_token_counts_once(write_tiny):
    metadata = {"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 0}
    assert read(write_tiny(metadata=metadata)).eos_ids == (2, 0)


def test_padding_falls_back_to_the_end_token(write_tiny):
    assert read(write_tiny(without={"tokenizer.ggml.padding_token_id"})).pad_id == 2


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"pre": "tekken"}, "'tekken' is not supported; these are: gpt-2, smollm"),
        ({"metadata": {"tokenizer.ggml.model": "llama"}}, "'llama' is not supported"),
        ({"without": {"tokenizer.ggml.merges"}}, r"lacks tokenizer\.ggml\.merges"),
        ({"without": {"tokenizer.ggml.eos_token_id"}}, "no end-of-text token"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(write_tiny, fields, said):
    with pytest.raises(UsageError, match=said):
        read(write_tiny(**fields))
