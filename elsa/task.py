"""What a run is about: which model, for which task, and which columns of the sites' data mean what.

Where the data lies on a site is the site owner's business and stands in the client's settings.
"""

import reprlib
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from elsa.parsing import Name, Part

Task = Literal["classification", "causal-lm"]
BaseDtype = Literal["float32", "bfloat16", "int8"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4096)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MOST_LABELS = 100_000


class ModelSpec(Part):
    """Which model, and for what task."""

    source: Text = Field("minilm", description="'minilm' (packaged), a local folder, or a hub name")
    task: Task = "classification"
    max_tokens: int = Field(128, ge=2, le=131072, description="longer rows are cut or dropped, and counted")
    base_dtype: BaseDtype = Field(
        "float32", description="in what frozen weights are held; computing is float32, int8 is of projections alone"
    )


class DataSpec(Part):
    """Which columns of a site's data set mean what. Rows never leave the site."""

    name: Name = Field("default", description="the data set's name in the clients' settings")
    text: Column = Field("text", description="column of the text (classification)")
    pair: Column | None = Field(None, description="column of the second text of a pair (classification)")
    label: Column = Field("label", description="column of the label (classification)")
    labels: tuple[Label, ...] = Field(
        (), max_length=MOST_LABELS, description="all label names, in order of their numbers"
    )
    prompt: Column | None = Field(None, description="column of the prompt (causal-lm); its tokens carry no loss")
    response: Column | None = Field(None, description="column of the response (causal-lm)")
    holdout: float = Field(0.2, gt=0, lt=1, description="share of a client's rows kept back for evaluation")
    long_rows: Literal["cut", "drop"] = Field("cut", description="what happens to rows over max_tokens")

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((label for label, times in Counter(labels).items() if times > 1), None)
        if twice is not None:
            raise ValueError(f"{reprlib.repr(twice)} is named twice; name each label once")
        return labels
