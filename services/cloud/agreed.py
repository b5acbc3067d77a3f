"""What the devices of a run come to together, before anything is planned: no single one decides for the others.

Planning, correcting and showing profiles all look at them through here, so that who left or refused counts nowhere.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import fields

from elsa.errors import CapacityError
from elsa.plan.problem import Refusal
from elsa.plan.shape import ModelShape
from services.cloud.records import Profile


def taking_part(profiles: Iterable[Profile], nodes: Container[str]) -> list[Profile]:
    """The profiles of these clients and edges."""
    return [kept for kept in profiles if kept.node_id in nodes]


def agreed_shape(profiles: Sequence[Profile]) -> ModelShape:
    """The blocks and the width that most edges tell, of equals the first's, and the most that these tell of all else.

    Raises CapacityError where no edge tells any.
    """
    told = [kept.shape for kept in profiles if kept.shape is not None]
    if not told:
        raise CapacityError("no edge has told the shape of the model; see the logs of the edges")
    ((most, _),) = Counter(map(_model, told)).most_common(1)
    agreeing = [shape for shape in told if _model(shape) == most]
    return ModelShape(**{one.name: max(getattr(shape, one.name) for shape in agreeing) for one in fields(ModelShape)})


def of_another_model(profiles: Iterable[Profile], shape: ModelShape) -> list[Refusal]:
    """The edges that tell of other blocks or another width than `shape`."""
    return [
        Refusal(
            name=kept.node_id,
            role="edge",
            reason=f"has a model of {kept.shape.blocks} blocks of width {kept.shape.width}, "
            f"and its peers one of {shape.blocks} of {shape.width}; give it the checkpoint that they have",
        )
        for kept in profiles
        if kept.shape is not None and _model(kept.shape) != _model(shape)
    ]


def mean_row_tokens(profiles: Iterable[Profile]) -> float:
    """Real tokens of a row, on average over the clients: each takes about as many steps, whatever its rows."""
    told = [kept.row_tokens for kept in profiles if kept.client is not None]
    return sum(told) / len(told) if told else 1.0


def mean_padded_tokens(profiles: Iterable[Profile]) -> float:
    """Tokens to which a row is padded, on average over the clients; of who does not say, the real ones."""
    told = [kept.client.padded_tokens or kept.row_tokens for kept in profiles if kept.client is not None]
    return sum(told) / len(told) if told else 1.0


def _model(shape: ModelShape) -> tuple[int, int]:
    return shape.blocks, shape.width
