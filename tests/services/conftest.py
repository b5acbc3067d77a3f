"""A tiny BERT with a tokenizer, and what holds the ends of calls against docs/api.md."""

import pytest
from listed_codes import note_all, unlisted


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """The folder of a random BERT for classification whose words are w0, w1, …"""
    from split_harness import save_bert, vocabulary
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel(vocabulary(), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return save_bert(tmp_path_factory.mktemp("tiny-bert"), tokenizer)


@pytest.fixture(autouse=True, scope="session")
def _ended():
    """The calls of our servicers that ended with an error, with its code."""
    seen = set()
    with pytest.MonkeyPatch.context() as patched:
        note_all(patched, seen)
        yield seen


@pytest.fixture(autouse=True)
def _ends_are_listed(_ended):
    """No call of any test here ends with a code that docs/api.md does not list."""
    _ended.clear()
    yield
    assert not unlisted(_ended), "name the codes in the protos' comments, and run make protos"
