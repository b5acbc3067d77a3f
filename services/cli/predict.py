"""`elsa predict`: what an exported adapter says of some texts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elsa.errors import CheckpointError
from services.cli.printing import print_table

if TYPE_CHECKING:
    from services.cli.predictor import Predictor


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict")(predict)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An exported adapter.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One text or more.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Base model: minilm, a folder or a hub name; by default its own."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object a text, all probabilities.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write, for a language model.")] = 64,
) -> None:
    """Try an exported adapter: label and probability of each text, or a language model's continuation of it.

    The folder is loaded by plain PEFT on its whole base model; no cloud or edge is needed.

    Example: elsa predict elsa-demo/adapter "Return the inverse of a square matrix."
    """
    if not folder.is_dir():  # said before torch is loaded, which takes seconds
        raise CheckpointError(f"no adapter folder at {folder}; elsa run export and elsa demo write one")
    from services.cli.predictor import Predictor

    predictor = Predictor.load(folder, model)
    if predictor.about.turned is not None:
        raise CheckpointError(
            f"{folder} holds an adapter that fits states turned by the secret keys of its run's clients alone "
            "(privacy.ssop, edge: blind); its README.md says more; predict with the adapter of another run"
        )
    classifies = predictor.about.config.task == "classification"
    rows = _classified(predictor, texts) if classifies else _continued(predictor, texts, max_new_tokens)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    elif classifies:
        _print_table(rows)
    else:
        for row in rows:
            typer.echo(f"{row['text']}{row['continuation']}")


def _classified(predictor: "Predictor", texts: Sequence[str]) -> list[dict[str, Any]]:
    labels = predictor.about.labels
    rows = []
    for text, shares in zip(texts, predictor.probabilities(texts), strict=True):
        probabilities = {label: round(float(share), 6) for label, share in zip(labels, shares, strict=True)}
        best = max(probabilities, key=probabilities.__getitem__)
        rows.append({"text": text, "label": best, "probability": probabilities[best], "probabilities": probabilities})
    return rows


def _continued(predictor: "Predictor", texts: Sequence[str], max_new_tokens: int) -> list[dict[str, Any]]:
    return [{"text": text, "continuation": predictor.continuation(text, max_new_tokens)} for text in texts]


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("label", "probability", "text", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(Text(row["label"]), f"{row['probability']:.3f}", Text(row["text"]))
    print_table(table)
