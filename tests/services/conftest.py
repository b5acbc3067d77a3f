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
    import torch
    from split_harness import FIELDS, LABELS, WORDS
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = BertForSequenceClassification(BertConfig(**FIELDS, num_labels=len(LABELS)))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


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
