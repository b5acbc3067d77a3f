"""What a demo may be told, and the run specification that follows from it."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from elsa.clustering import ClusteringSpec, ProbesSpec
from elsa.presets import PRESETS, PresetName
from elsa.spec import (
    DataSpec,
    FleetSpec,
    LoraSpec,
    ModelSpec,
    OptimizerSpec,
    PlanSpec,
    RoundsSpec,
    RunSpec,
    SplitSpec,
    TrainingSpec,
)
from services.testbed.devices import Device, devices

WITH_CLUSTERS = {"clients": 6, "rounds": 4, "alpha": 0.3}
"""What is not given is so in a demo of clusters: enough clients to group, unlike enough to tell the groups apart."""
ENROLL_S = 180.0
DEADLINE_S = 900.0
MOST_TIMES_SLOWER = 1000.0


def _by_commas(raw: Any) -> Any:
    """The parts of a text such as 1,2,4; what YAML makes of a single one is one."""
    if isinstance(raw, str):
        return [part.strip() for part in raw.split(",")]
    return [raw] if isinstance(raw, int | float) else raw


ByCommas = BeforeValidator(_by_commas)
Above = Annotated[float, Field(gt=0, le=1e6)]
Mebibytes = Annotated[int, Field(ge=1, le=2**30)]
Milliseconds = Annotated[float, Field(ge=0, le=10_000)]
Numbers: JsonDict = {"metavar": "NUMBER,..."}


class DemoSettings(BaseModel):
    """Settings of a demo."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    clients: int = Field(4, ge=1, le=64, description="clients, each a process with rows of its own")
    edges: int = Field(2, ge=1, le=16, description="edges, each a process with the middle of the model")
    rounds: int = Field(6, ge=1, description="global rounds")
    edge_rounds: int = Field(2, ge=1, description="edge rounds in a global round")
    steps: int = Field(50, ge=1, description="optimizer steps of a client in an edge round")
    batch: int = Field(8, ge=1, description="rows in a step")
    model: str = Field("minilm", min_length=1, description="base model: minilm (packaged), a folder, or a hub name")
    data: str = Field(
        "builtin", min_length=1, description="rows to share out: builtin, or a file: .jsonl .csv .parquet"
    )
    test: str | None = Field(None, description="file of rows to test on; else a fifth of the data")
    text: str = Field("text", description="column of the text")
    label: str = Field("label", description="column of the label")
    labels: str = Field("", description="names of the labels, by commas; else those in the data")
    alpha: float = Field(1.0, gt=0, description="how unlike the clients are: Dirichlet over labels, small is unlike")
    iid: bool = Field(False, description="clients with like mixtures of labels, instead of --alpha")
    bottom: int | None = Field(
        None, ge=1, description="blocks that a client keeps at the bottom, with the embeddings; else the preset's"
    )
    top: int | None = Field(
        None, ge=0, description="blocks that a client keeps at the top, under the head; else the preset's"
    )
    clusters: bool = Field(
        False, description="group clients by how they answer probes: 6 clients, 4 rounds, alpha 0.3 if not given"
    )
    probes: Path | None = Field(None, description="probes of your own, one sentence a line, for --clusters")
    speeds: Annotated[tuple[Above, ...], ByCommas] = Field(
        (),
        description="relative speeds of the clients' devices in order, as 1,2,4,8, repeated in turn: the fastest "
        "computes as fast as this machine, the others so many times slower",
        json_schema_extra=Numbers,
    )
    memory_mib: Annotated[tuple[Mebibytes, ...], ByCommas] = Field(
        (),
        description="memory of the clients' devices in order, MiB, as 300,600, repeated in turn: for a client's part "
        "of the model and for training it, beside what its process takes anyway",
        json_schema_extra=Numbers,
    )
    latency_ms: Annotated[tuple[Milliseconds, ...], ByCommas] = Field(
        (),
        description="latency of the clients' links in order, as 5,20, repeated in turn: of a round trip to an edge",
        json_schema_extra=Numbers,
    )
    mbit: Annotated[tuple[Above, ...], ByCommas] = Field(
        (),
        description="bandwidth of the clients' links in order, Mbit/s each way, as 10,100, repeated in turn; kept "
        "well up to some 200",
        json_schema_extra=Numbers,
    )
    limits: Literal["pace", "cgroup"] = Field(
        "pace",
        description="what keeps a client to its speed and memory: pace (it sleeps after each piece of computing, and "
        "plans within its memory) or cgroup (the kernel, where it lets us, else pace, which is said)",
    )
    plan: Literal["measured", "given"] | None = Field(
        None,
        description="who decides how many blocks each client keeps: measured (a plan made from what devices measure, "
        "again each round; --bottom and --top are the least then) or given (by them); default: measured with "
        "--speeds or --memory-mib where the preset allows it (paper does not), else given",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the data's shares and of the run")
    threads: int = Field(1, ge=1, description="threads of the compute kernels, each role")
    output: Path = Field(Path("elsa-demo"), description="folder for the result; an earlier demo there is replaced")
    preset: PresetName = Field("default", description="codecs and privacy: default, thrifty, private, paper or none")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="of AdamW")
    rank: int = Field(8, ge=1, le=1024, description="of the LoRA factors")
    max_tokens: int = Field(48, ge=2, description="longer texts are cut")

    @model_validator(mode="before")
    @classmethod
    def _clusters_need_clients(cls, raw: Any) -> Any:
        return WITH_CLUSTERS | raw if isinstance(raw, dict) and raw.get("clusters") is True else raw

    @model_validator(mode="after")
    def _probes_are_asked(self) -> Self:
        if self.probes is not None and not self.clusters:
            raise ValueError("probes: nobody would be asked; give --clusters too")
        return self

    @model_validator(mode="after")
    def _edges_have_clients(self) -> Self:
        if self.edges > self.clients:
            raise ValueError(f"{self.edges} edges are more than {self.clients} clients; every edge needs one")
        return self

    @model_validator(mode="after")
    def _devices_are_of_clients(self) -> Self:
        for name in ("speeds", "memory_mib", "latency_ms", "mbit"):
            if len(figures := getattr(self, name)) > self.clients:
                raise ValueError(
                    f"{name}: {len(figures)} figures for {self.clients} clients; give one a client at most"
                )
        if self.speeds and max(self.speeds) > MOST_TIMES_SLOWER * min(self.speeds):
            raise ValueError(
                f"speeds: the slowest may be at most {MOST_TIMES_SLOWER:g} times slower than the fastest"
            )
        if self.limits == "cgroup" and not self.speeds and not self.memory_mib:
            raise ValueError("limits: nobody is limited; give --speeds or --memory-mib too")
        return self

    @model_validator(mode="after")
    def _preset_allows_plans(self) -> Self:
        if self.plan == "measured" and not self._preset_turns_nothing:
            raise ValueError(
                f"plan: --plan measured gives clients different splits, and --preset {self.preset} turns activations "
                "for one cut; leave --plan out, or choose another --preset"
            )
        return self

    @property
    def devices(self) -> list[Device]:
        """Each client's device, in order."""
        return devices(
            self.clients,
            speeds=self.speeds,
            memory_mib=self.memory_mib,
            latency_ms=self.latency_ms,
            mbit=self.mbit,
        )

    @property
    def has_unlike_devices(self) -> bool:
        """Whether anything of the clients' devices was told."""
        return bool(self.speeds or self.memory_mib or self.latency_ms or self.mbit)

    @property
    def plan_method(self) -> Literal["measured", "given"]:
        """Who decides each client's split: as told, else a plan for unlike devices where the preset allows one."""
        if self.plan is not None:
            return self.plan
        return "measured" if (self.speeds or self.memory_mib) and self._preset_turns_nothing else "given"

    @property
    def _preset_turns_nothing(self) -> bool:
        """Whether activations are not turned (privacy.ssop), so that clients may be cut at different places."""
        return "ssop" not in PRESETS[self.preset].get("privacy", {})

    @property
    def capacity(self) -> int:
        """Sessions of an edge: so few that the clients fill all edges, however near one of them seems."""
        return -(-self.clients // self.edges)

    @property
    def rows_trained(self) -> int:
        """Rows that all steps of all clients use, repeats included."""
        return self.clients * self.rounds * self.edge_rounds * self.steps * self.batch

    def run_spec(self, labels: tuple[str, ...], probes: tuple[str, ...] = ()) -> RunSpec:
        """The run's specification. Raises pydantic's ValidationError where the parts do not go together."""
        clustering = ClusteringSpec(method="auto", probes=ProbesSpec(sentences=probes))
        split = {name: value for name in ("bottom", "top") if (value := getattr(self, name)) is not None}
        return RunSpec(
            name="demo",
            preset=self.preset,
            seed=self.seed,
            model=ModelSpec(source=self.model, max_tokens=self.max_tokens),
            data=DataSpec(text=self.text, label=self.label, labels=labels, holdout=0.1),
            split=SplitSpec.model_validate(split),
            plan=PlanSpec(method=self.plan_method),
            lora=LoraSpec(rank=self.rank, alpha=2 * self.rank),
            training=TrainingSpec(
                rounds=self.rounds,
                edge_rounds=self.edge_rounds,
                local_steps=self.steps,
                batch=self.batch,
                optimizer=OptimizerSpec(learning_rate=self.learning_rate),
            ),
            fleet=FleetSpec(min_clients=self.clients, min_edges=self.edges, enroll_timeout_s=ENROLL_S),
            rounds=RoundsSpec(deadline_s=DEADLINE_S),
            clustering=clustering if self.clusters else ClusteringSpec(method="none"),
        )
