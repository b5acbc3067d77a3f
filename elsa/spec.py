"""What an operator asks for: `RunSpec` and its parts, parsed once from YAML at the door.

Everything that a run may decide stands in it, with bounds and defaults. Here is who takes part, when rounds are
closed, and what of one section has to fit another; the other sections are in modules beside this one.
"""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from elsa.clustering import MOST_UPLOAD_BYTES, AssignmentSpec, ClusteringSpec, TrustSpec
from elsa.codecs import CALIBRATED, CodecsSpec, TopK
from elsa.errors import SpecError
from elsa.parsing import Name, Part, parse
from elsa.presets import PRESETS, PresetName, beneath
from elsa.protection import PrivacySpec, ReuseSpec
from elsa.splitting import PlanSpec, Split, SplitSpec
from elsa.task import BaseDtype, DataSpec, ModelSpec, Task
from elsa.training import EarlyStoppingSpec, LoraSpec, OptimizerSpec, TrainingSpec

MONTH_S = 30 * 24 * 3600.0
__all__ = [
    "BaseDtype",
    "DataSpec",
    "EarlyStoppingSpec",
    "FleetSpec",
    "LoraSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PlanSpec",
    "RoundsSpec",
    "RunSpec",
    "Split",
    "SplitSpec",
    "Task",
    "TrainingSpec",
    "loaded",
]


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
