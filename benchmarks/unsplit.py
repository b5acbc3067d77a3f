"""The unsplit twin in a process of its own: plain PEFT training of the whole model on the same rows.

    python -m benchmarks.unsplit SPEC.yaml DATA --steps 50 --repeats 3 --threads 2 [--test FILE]

Prints one JSON line: seconds a step of each repeat (repeats go on from each other), loss, and the test accuracy.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.data.batches import Batch, batches, sequential
from elsa.data.encoding import EncodedData, encode
from elsa.data.examples import read_examples
from elsa.data.source import read_rows
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.train.loss import count, loss_sum


def rows_of(spec: RunSpec, checkpoint: Checkpoint, source: str) -> EncodedData:
    """The encoded rows of a source."""
    examples, _ = read_examples(read_rows(source), spec.data, spec.model.task, source)
    return encode(examples, checkpoint.tokenizer(), spec.model, spec.data)[0]


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits (rows, labels), or (rows, tokens, vocabulary)."""
    more = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **more).logits


def adapted(spec: RunSpec, checkpoint: Checkpoint) -> torch.nn.Module:
    """The whole model with a LoRA adapter, by plain transformers and PEFT."""
    torch.manual_seed(spec.seed)
    task = spec.model.task
    kind = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    base = kind.from_pretrained(checkpoint.folder, config=checkpoint.config(task, len(spec.data.labels)))
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS if task == "classification" else TaskType.CAUSAL_LM,
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=list(spec.lora.targets or checkpoint.architecture.targets),
    )
    model = get_peft_model(base, lora)
    model.train(spec.training.dropout)
    return model


def train(model: torch.nn.Module, rows: EncodedData, spec: RunSpec, steps: int, repeats: int) -> dict[str, object]:
    """Seconds a step of each repeat, and the mean loss of the last."""
    chosen, task = spec.training.optimizer, spec.model.task
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=chosen.learning_rate, betas=chosen.betas, eps=chosen.epsilon, weight_decay=chosen.weight_decay
    )
    seconds, losses = [], []
    for repeat in range(repeats):
        begin = time.perf_counter()
        for batch in batches(rows, spec.training.batch, steps, [spec.seed, repeat]):
            loss = loss_sum(logits(model, batch), batch.labels, task) / count(batch.labels, task)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        seconds.append((time.perf_counter() - begin) / steps)
    return {"step_s": seconds, "loss": sum(losses[-steps:]) / steps}


@torch.no_grad()
def accuracy(model: torch.nn.Module, test: EncodedData) -> float:
    """Share of right answers."""
    model.train(False)
    hits = sum(
        int((logits(model, batch).argmax(-1) == batch.labels).sum()) for batch in sequential(test.by_length(), 64)
    )
    return hits / len(test)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec = RunSpec.from_yaml(args.spec.read_text())
    checkpoint = Checkpoint.open(spec.model.source)
    model = adapted(spec, checkpoint)
    result = train(model, rows_of(spec, checkpoint, args.data), spec, args.steps, args.repeats)
    if args.test:
        result["test_accuracy"] = accuracy(model, rows_of(spec, checkpoint, args.test))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
