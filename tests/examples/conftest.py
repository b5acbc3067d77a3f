"""A tiny BERT with the tokenizer of a real one, and what the tests of a whole system use."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
sys.path[:0] = [str(EXAMPLES), str(ROOT / "tests" / "services"), str(ROOT / "tests" / "services" / "rpc")]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def wordpiece_bert(tmp_path_factory):
    """The folder of a random BERT of four blocks whose words are w0, w1, …, in WordPiece."""
    from split_harness import save_bert, vocabulary
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer = Tokenizer(WordPiece(vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    return save_bert(tmp_path_factory.mktemp("wordpiece-bert"), tokenizer)
