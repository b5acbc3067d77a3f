"""A model and data so small that a whole system of processes runs in seconds."""

import json
import random

import pytest

WORDS = {"red": ("rose", "ruby", "rust", "brick"), "green": ("grass", "moss", "jade", "fern")}
COMMON = tuple(f"w{n}" for n in range(20))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random BERT of four blocks with a tokenizer of a few words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    every = [*special, *COMMON, *(word for words in WORDS.values() for word in words)]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(every)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        BertModel(BertConfig(vocab_size=len(every), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory):
    """A file of 240 rows whose label is told by one of their words."""
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("tiny-rows") / "rows.jsonl"
    with path.open("w") as file:
        for number in range(240):
            label = ("red", "green")[number % 2]
            words = [*draw.sample(COMMON, 3), draw.choice(WORDS[label])]
            draw.shuffle(words)
            file.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return path
