"""What an operator asks for: `RunSpec` and its parts, parsed once from YAML at the door.

Everything that a run may decide stands here, with bounds and defaults; where the data lies on a site is the
site owner's business and stands in the client's settings. `Split` is the cut of a model with a known number
of blocks; `SplitSpec` is what a person writes, before that number is known.
"""

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, StringConstraints, field_validator, model_validator

from elsa.clustering import MOST_UPLOAD_BYTES, AssignmentSpec, ClusteringSpec, TrustSpec
from elsa.codecs import CALIBRATED, CodecsSpec, TopK
from elsa.errors import SpecError, SplitError
from elsa.parsing import Name, Part, parse
from elsa.presets import PRESETS, PresetName, beneath
from elsa.protection import PrivacySpec, ReuseSpec

Task = Literal["classification", "causal-lm"]
BaseDtype = Literal["float32", "bfloat16", "int8"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4096)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MONTH_S = 30 * 24 * 3600.0
MOST_LABELS = 100_000


@dataclass(frozen=True, kw_only=True)
class Split:
    """A model of `bottom + trunk + top` blocks cut in three; the head is always the client's.

    Raises:
        SplitError: if bottom < 1, trunk < 1 or top < 0.
    """

    bottom: int
    trunk: int
    top: int

    def __post_init__(self) -> None:
        if self.bottom < 1 or self.trunk < 1 or self.top < 0:
            raise SplitError(
                f"split {self} (bottom/trunk/top) is impossible: bottom and trunk need at least 1 block, "
                "top at least 0; choose smaller bottom and top"
            )

    @property
    def blocks(self) -> int:
        """Number of blocks of the whole model."""
        return self.bottom + self.trunk + self.top

    @property
    def trunk_blocks(self) -> range:
        """Indices of the blocks that the edge runs."""
        return range(self.bottom, self.bottom + self.trunk)

    def __str__(self) -> str:
        return f"{self.bottom}/{self.trunk}/{self.top}"


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


class SplitSpec(Part):
    """How many blocks a client keeps at each end, at least where splits are planned; the edge runs the rest."""

    bottom: int = Field(1, ge=1, le=10_000)
    top: int = Field(1, ge=0, le=10_000)

    def of(self, blocks: int) -> Split:
        """The split of a model of `blocks` blocks. Raises SplitError if nothing is left for the trunk."""
        if self.bottom + self.top >= blocks:
            raise SplitError(
                f"split with bottom {self.bottom} and top {self.top} leaves no trunk in a model of {blocks} "
                f"blocks; bottom + top may be at most {blocks - 1}"
            )
        return Split(bottom=self.bottom, trunk=blocks - self.bottom - self.top, top=self.top)


class PlanSpec(Part):
    """Who decides each client's split: the specification, or a plan made from what devices measured."""

    method: Literal["auto", "measured", "given"] = Field(
        "auto",
        description="auto: measured, but for runs that name clients' splits or turn activations (privacy.ssop)",
    )
    every: int = Field(1, ge=0, le=10_000, description="global rounds from one plan to the next; 0: one for all")


class LoraSpec(Part):
    """The adapter that is trained (LoRA, arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(16.0, gt=0, le=1e6)
    targets: tuple[Column, ...] = Field(
        (), max_length=64, description="module names; empty: query and value projections"
    )
    bottom_adapters: bool = Field(True, description="train the client's blocks before the cut too")


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Part):
    """AdamW, the same on both sides of the cut, so that a split step equals an unsplit one."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0, le=1)


class EarlyStoppingSpec(Part):
    """When a run ends before its rounds are made, by how good its versions are on the rows that clients kept back."""

    metric: Literal["loss", "accuracy"] = Field("loss", description="what has to get better, weighted by rows")
    adapter: Literal["run", "cluster"] = Field(
        "run", description="whose metric: that of the run's adapter, or for each client that of its cluster's"
    )
    patience: int = Field(3, ge=1, le=10_000, description="versions in a row without a better one that end the run")
    min_delta: float = Field(0.0, ge=0, le=1e6, description="by how much a version must be better to count as such")


class TrainingSpec(Part):
    """How long and in what portions clients train."""

    rounds: int = Field(3, ge=1, le=10_000, description="global rounds")
    edge_rounds: int = Field(2, ge=1, le=1_000, description="edge rounds in a global round")
    local_steps: int = Field(20, ge=1, le=100_000, description="optimizer steps of a client in an edge round")
    batch: int = Field(16, ge=1, le=100_000, description="rows in an optimizer step")
    micro_batches: int = Field(1, ge=1, le=100_000, description="parts of a batch; their gradients are summed")
    window: int = Field(2, ge=1, le=16, description="micro-batches in flight at once")
    dropout: bool = Field(False, description="use the model's own dropout while training")
    steps: Literal["fixed", "proportional"] = Field(
        "fixed", description="proportional: slower clients take fewer steps, which aggregation corrects (FedNova)"
    )
    checkpointing: bool = Field(
        False, description="keep only what enters a block and run it again in its backward: less memory, more time"
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    early_stopping: EarlyStoppingSpec | None = Field(
        None, description="end once versions get no better, and export the best; none: all rounds are made"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.micro_batches > self.batch:
            raise ValueError(f"micro_batches {self.micro_batches} is more than batch {self.batch}")
        return self


class FleetSpec(Part):
    """Who must be there before a run starts."""

    min_clients: int = Field(1, ge=1, le=100_000)
    min_edges: int = Field(1, ge=1, le=100_000)
    enroll_timeout_s: float = Field(300.0, gt=0, le=MONTH_S, description="a run without its minimum by then fails")
    wait_for_others: bool = Field(
        False, description="wait that long too where those who are there have refused, as others may come; else fail"
    )


class RoundsSpec(Part):
    """When a round, of an edge or of the cloud, is closed."""

    quorum: float = Field(1.0, gt=0, le=1, description="share of members whose updates close the round at once")
    deadline_s: float = Field(
        600.0, gt=0, le=MONTH_S, description="the round closes then with what has come; with none, fails"
    )
    adaptive: bool = Field(
        True, description="close sooner where recent rounds took much less: at their median + 3 MAD (docs/rounds.md)"
    )


class RunSpec(Part):
    """A whole run, as submitted to the cloud."""

    name: Name = "run"
    seed: int = Field(0, ge=0, lt=2**31)
    preset: PresetName = Field("default", description="where codecs, privacy and reuse come from if not given")
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    splits: Mapping[Name, SplitSpec] = Field(
        {}, max_length=10_000, description="clients whose split differs, by name"
    )
    plan: PlanSpec = PlanSpec()
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()
    codecs: CodecsSpec = CodecsSpec()
    privacy: PrivacySpec = PrivacySpec()
    reuse: ReuseSpec = ReuseSpec()
    fleet: FleetSpec = FleetSpec()
    rounds: RoundsSpec = RoundsSpec()
    clustering: ClusteringSpec = ClusteringSpec()
    trust: TrustSpec = TrustSpec()
    assignment: AssignmentSpec = AssignmentSpec()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        name = raw.get("preset", "default")
        preset = next((parts for known, parts in PRESETS.items() if known == name), {})
        return beneath(raw, preset)

    @model_validator(mode="after")
    def _reuse_sees_the_same(self) -> Self:
        if not self.reuse.enabled:
            return self
        if self.training.dropout:
            raise ValueError("reuse.enabled: dropout makes a row's h1 differ every time; set training.dropout: false")
        if self.privacy.noise is not None:
            raise ValueError("reuse.enabled: rows that are kept would carry one draw of noise; turn one of both off")
        ssop = self.privacy.ssop
        if ssop is not None and ssop.renew != "run":
            raise ValueError("reuse.enabled: kept rows need a key that lasts; set privacy.ssop.renew: run")
        return self

    @model_validator(mode="after")
    def _errors_fed_back_keep_their_coordinates(self) -> Self:
        ssop = self.privacy.ssop
        if ssop is None or ssop.renew == "run":
            return self
        for name, stages in (("dh2", self.codecs.dh2), ("dh1", self.codecs.dh1)):
            if any(isinstance(stage, TopK) for stage in stages) and not isinstance(stages[0], CALIBRATED):
                raise ValueError(
                    f"codecs.{name}: what topk leaves out is added to a row's next gradient, which a new key turns "
                    "otherwise; set privacy.ssop.renew: run, or another codec"
                )
        return self

    @model_validator(mode="after")
    def _blind_edges_see_one_cut(self) -> Self:
        ssop = self.privacy.ssop
        odd = next((name for name, split in self.splits.items() if split != self.split), None)
        if ssop is not None and ssop.edge == "blind" and odd is not None:
            raise ValueError(
                f"splits.{odd}: differs from split, but with privacy.ssop.edge: blind a block that is one client's "
                "own and another's trunk would be averaged over two coordinate systems; give all clients one split"
            )
        return self

    @model_validator(mode="after")
    def _probes_never_travel_under_a_key(self) -> Self:
        method = self.clustering.method
        if self.privacy.ssop is not None and method not in ("auto", "none"):
            raise ValueError(
                f"clustering.method: {method} sends probes, which are known text, through turned activations "
                "(privacy.ssop) and would give the key away; set clustering.method: none"
            )
        return self

    @model_validator(mode="after")
    def _fingerprints_go_into_a_message(self) -> Self:
        if self.clustering.method not in ("auto", "none") and self._upload_bytes > MOST_UPLOAD_BYTES:
            raise ValueError(
                f"clustering: a fingerprint of {self._upload_bytes} bytes is more than {MOST_UPLOAD_BYTES}; lower "
                "probes.count, probes.repeated or dimensions, or set method: none"
            )
        return self

    @property
    def _upload_bytes(self) -> int:
        """What a client's fingerprint takes on the wire."""
        labels = len(self.data.labels) if self.model.task == "classification" else 0
        return self.clustering.upload_bytes(labels)

    @model_validator(mode="after")
    def _splits_can_be_planned(self) -> Self:
        if self.plan.method == "measured" and self.splits:
            raise ValueError("plan.method: measured plans every client's split; drop splits, or set it to given")
        if self.plan.method == "measured" and self.privacy.ssop is not None:
            raise ValueError(
                "plan.method: measured gives clients different splits, and activations are turned (privacy.ssop) for "
                "one cut; set it to given"
            )
        if self.training.steps == "proportional" and not self.plans_splits:
            raise ValueError("training.steps: proportional needs measured speeds; set plan.method: measured")
        return self

    @model_validator(mode="after")
    def _adversary_has_a_bottom(self) -> Self:
        if self.privacy.adversary is not None and not self.lora.bottom_adapters:
            raise ValueError("privacy.adversary: trains the bottom; set lora.bottom_adapters: true")
        return self

    @model_validator(mode="after")
    def _task_has_its_columns(self) -> Self:
        if self.model.task == "classification" and len(self.data.labels) < 2:
            raise ValueError("data.labels needs at least two different label names for classification")
        if self.model.task == "causal-lm" and (self.data.prompt is None) != (self.data.response is None):
            raise ValueError("data.prompt and data.response go together; for plain text give neither")
        return self

    def split_of(self, client: str, blocks: int) -> Split:
        """The split of one client in a model of `blocks` blocks that is given. Raises SplitError."""
        return self.splits.get(client, self.split).of(blocks)

    @property
    def plans_splits(self) -> bool:
        """Whether each client's split is planned from what it measured; `split` is the least that each keeps then."""
        if self.plan.method == "auto":
            return not self.splits and self.privacy.ssop is None
        return self.plan.method == "measured"

    def groups_clients(self, edges: int) -> bool:
        """Whether clients are fingerprinted and clustered in a run over `edges` edges."""
        return not self.ungrouped(edges)

    def ungrouped(self, edges: int) -> str:
        """Why clients are not clustered in a run over `edges` edges; empty where they are."""
        if self.clustering.method == "none":
            return "clustering.method is none"
        if self.clustering.method != "auto":
            return ""
        if edges < 2:
            return "there is one edge"
        if self.privacy.ssop is not None:
            return "privacy.ssop is on, and probes may not travel under its key"
        return "" if self._upload_bytes <= MOST_UPLOAD_BYTES else "a fingerprint would not go into a message"

    @classmethod
    def from_yaml(cls, text: str, origin: str = "spec") -> "RunSpec":
        """Parse YAML. Raises SpecError naming the origin, the field and the bound."""
        return parse(cls, loaded(text, origin), origin)

    def to_yaml(self) -> str:
        """The spec as YAML that `from_yaml` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def loaded(text: str, origin: str) -> Any:
    """The values of a specification in YAML, not checked yet. Raises SpecError for what is not YAML."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{origin} is not YAML: {' '.join(str(error).split())}") from error
    return {} if raw is None else raw
