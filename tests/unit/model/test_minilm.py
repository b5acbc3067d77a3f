"""The packaged pretrained model, split and whole."""

import torch
from tiny_models import TOLERANCE
from transformers import AutoModelForSequenceClassification

from elsa.model import adapter
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split

TEXTS = ["How many planets are there?", "Who wrote Faust?", "What is the longest river of South America called?"]


def test_minilm_split_in_three_equals_minilm() -> None:
    checkpoint = Checkpoint.open("minilm")
    split = Split(bottom=1, trunk=4, top=1)
    rows = checkpoint.tokenizer()(TEXTS, padding=True, return_tensors="pt")
    ids, mask = rows["input_ids"], rows["attention_mask"]
    config = adapter.adapter_config(checkpoint, LoraSpec(), "classification", 6)
    assert (config.targets, config.modules_to_save) == (("query", "value"), ("classifier",))
    tensors = adapter.initial_adapter(checkpoint, config, 6, seed=0)
    client = Segment.client(checkpoint, split, task="classification", num_labels=6)
    edge = Segment.edge(checkpoint, split.trunk_blocks, task="classification", num_labels=6)
    for segment in (client, edge):
        adapter.attach(segment, config)
        adapter.write(segment, tensors)
    real = mask[:, :, None].bool()
    with torch.no_grad():
        h1 = client.bottom(ids, mask, rows["token_type_ids"], split=split)
        h2 = edge.trunk(torch.where(real, h1, 0.0), mask, split)
        logits = client.top(torch.where(real, h2, 0.0), ids, mask, split)
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=6).eval()
        for name in ("weight", "bias"):
            values = torch.from_numpy(tensors[f"base_model.model.classifier.{name}"])
            getattr(model.classifier, name).copy_(values)
        want = model(**rows).logits
    torch.testing.assert_close(logits, want, rtol=0, atol=TOLERANCE)
    assert client.blocks_total == 6 and client.width == 384
