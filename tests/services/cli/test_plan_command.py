"""A plan of splits is shown whole: who carries what and why, who cannot take part, from a file or from a run."""

import json
import math
import re
import subprocess
import sys
from concurrent import futures
from contextlib import contextmanager
from dataclasses import asdict

import grpc
import pytest
from matplotlib.image import imread

from elsa.plan.messages import client_to_proto, edge_to_proto, links_to_proto, shape_to_proto
from elsa.plan.problem import Placed
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.profile_file import Profiles
from elsa.plan.shape import ModelShape
from elsa.spec import Split
from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from services.cli.plan import TEXT
from services.cli.plan_figures import figures_of_file, figures_of_run, with_shape
from services.cli.plan_picture import GAP, MOST_BARS, heights_of
from services.cli.planned import planned
from services.cli.specification import read_specification
from services.cloud.plan_messages import profiles_to_proto
from services.cloud.profiles import ProfiledClient
from services.cloud.profiles import Profiles as CloudProfiles
from services.cloud.records import Member, Role

SHAPE = ModelShape(
    blocks=6,
    width=8,
    block_weights=100_000,
    embedding_weights=300_000,
    head_weights=1000,
    largest_weights=250_000,
    block_adapter=500,
    block_activations=100,
    head_activations=10,
)
LINK = {"latency_ms": 8.0, "up_bytes_per_s": 2e6, "down_bytes_per_s": 2e7}
EDGE = {"block_s": 0.004, "memory_bytes": 8e9, "capacity": 200}
CLIENT = {"block_s": 0.02, "memory_bytes": 2e9, "links": {"edge-1": LINK}}
SPEC = """
name: trial
data: {labels: [a, b]}
split: {bottom: 1, top: 1}
plan: {method: measured}
training: {batch: 4, local_steps: 20}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def written(tmp_path):
    """`written(clients, edges, **beside)`: the path of a file of profiles."""

    def call(clients, edges=None, **beside):
        path = tmp_path / "fleet.json"
        edges = {"edge-1": EDGE} if edges is None else edges
        said = {"model": asdict(SHAPE), "row_tokens": 20, "clients": clients, "edges": edges, **beside}
        path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
        return path

    return call


def fleet(count, edges=2):
    """Clients of all speeds, each with links to all edges."""
    names = [f"edge-{n}" for n in range(edges)]
    clients = {
        f"client-{n:04}": {
            **CLIENT,
            "block_s": 0.001 * 2 ** (n % 7),
            "links": {name: {**LINK, "latency_ms": 1 + (n + place) % edges} for place, name in enumerate(names)},
        }
        for n in range(count)
    }
    return clients, dict.fromkeys(names, EDGE)


def test_all_devices_are_shown_after_a_summary(elsa, spec, written):
    code, out, _ = elsa("plan", spec, "--profiles", written(*fleet(4)))
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("4 of 4 clients can take part, at 2 edges; a step of all takes ")
    assert lines[1] == "a model of 6 blocks; 4 rows of 20 tokens a step"
    for device in (*(f"client-{n:04}" for n in range(4)), "edge-0", "edge-1"):
        assert sum(line.strip().startswith(device) for line in lines) == 1
    assert "refused" not in out and "steps" not in out


def test_every_client_of_a_large_fleet_is_shown(elsa, spec, written):
    code, out, _ = elsa("plan", spec, "--profiles", written(*fleet(1000, edges=10)))
    assert code == 0 and out.startswith("1000 of 1000 clients can take part, at 10 edges")
    assert sum(line.strip().startswith("client-") for line in out.splitlines()) == 1000


def test_a_clients_phases_make_its_step(elsa, spec, written):
    code, out, _ = elsa("plan", spec, "--profiles", written(*fleet(5)), "--json")
    told = json.loads(out)
    assert code == 0 and len(told["clients"]) == 5
    for client in told["clients"]:
        phases = dict(client["seconds"])
        assert math.isclose(phases.pop("total"), sum(phases.values()))
        assert sum(client["split"].values()) == told["blocks"] == 6
        assert 0 < client["need_bytes"] <= client["memory_bytes"]
    assert told["step_s"] == max(edge["step_s"] for edge in told["edges"])


def test_it_plans_where_torch_is_not_installed(spec, written):
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft", "accelerate", "datasets"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from services.cli.__main__ import status
sys.exit(status(["plan", {str(spec)!r}, "--profiles", sys.argv[1]]))
"""

    def call(path):
        command = [sys.executable, "-c", code, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = call(written(*fleet(3)))
    assert done.returncode == 0 and done.stdout.startswith("3 of 3 clients"), done.stderr
    done = call(written(*fleet(3), model=None))
    assert done.returncode == 1 and done.stdout == ""
    assert 'is not installed); give it as "model" in the file' in done.stderr and done.stderr.count("\n") == 1


REFUSED = {
    "zero": ({"block_s": 0}, "block_s is 0"),
    "negative": ({"embeddings_s": -1}, "embeddings_s is -1"),
    "nan": ({"memory_bytes": math.nan}, "memory_bytes"),
    "unknown": ({"speed": 3}, "speed: unknown field"),
    "capped": ({"max_bottom": 1}, "max_bottom 1 is below the run's min_bottom 2"),
    "small": ({"memory_bytes": 1000}, "MiB"),
    "far": ({"links": {}}, "reaches no edge with room"),
    "astray": ({"edge": "edge-9", "links": {"edge-1": LINK}}, "its edge edge-9 is not there"),
    "slight": ({"edge": "slight", "links": {"slight": LINK}}, "its edge slight needs"),
}


def test_devices_that_cannot_take_part_are_named_and_the_others_planned(elsa, spec, written):
    spec.write_text(SPEC.replace("bottom: 1", "bottom: 2"))
    clients = {name: {**CLIENT, **more} for name, (more, _) in REFUSED.items()}
    edges = {"edge-1": EDGE, "slight": {**EDGE, "memory_bytes": 1000}, "odd": {**EDGE, "capacity": 0}}
    code, out, _ = elsa("plan", spec, "--profiles", written({**clients, "good": CLIENT}, edges))
    assert code == 0
    assert out.startswith("1 of 10 clients can take part, at 1 edge; a step of all takes ")
    for name, (_, said) in REFUSED.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"  client {name}: ")]
        assert said in line
    assert "  edge slight: needs " in out and "  edge odd: capacity is 0" in out
    assert f"{len(REFUSED) + 2} refused" in out


def test_an_edge_that_serves_nobody_is_shown_so(elsa, spec, written):
    _, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}, {"edge-1": EDGE, "idle": EDGE}))
    (line,) = [line.split() for line in out.splitlines() if line.strip().startswith("idle")]
    assert line[:2] == ["idle", "0/200"] and line[-2:] == ["serves", "nobody"]


def test_nobody_to_take_part_is_an_error_with_the_reasons(refused, spec, written):
    clients = {"a": {**CLIENT, "memory_bytes": 1000}, "b": {**CLIENT, "block_s": 0}}
    line = refused("plan", spec, "--profiles", written(clients))
    assert "no client can take part: client a: " in line and "client b: block_s is 0" in line
    assert "there is none" in refused("plan", spec, "--profiles", written({}, {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "fleet.json is not JSON"),
        ("[]", "fleet.json: "),
        ('{"clients": {}, "edges": {}, "fleet": {}}', "fleet: unknown field"),
        ('{"clients": {}}', "edges: missing"),
        ('{"clients": {}, "edges": {}, "model": {"blocks": 6}}', "model.width: missing"),
    ],
)
def test_a_file_that_says_no_fleet_is_refused(refused, spec, tmp_path, text, said):
    path = tmp_path / "fleet.json"
    path.write_text(text)
    assert said in refused("plan", spec, "--profiles", path)


def test_what_cannot_be_read_or_written_is_refused_before_any_work(refused, spec, tmp_path, written):
    profiles = written({"c": CLIENT})
    assert "nowhere.json: cannot be read (No such file" in refused("plan", spec, "--profiles", "nowhere.json")
    assert "cannot be read" in refused("plan", tmp_path / "nowhere.yaml", "--profiles", profiles)
    assert "end the name with .png" in refused("plan", spec, "--profiles", profiles, "--plot", "plan.pdf")
    assert "--save" in refused("plan", spec, "--profiles", profiles, "--save", tmp_path / "no" / "fleet.json")
    assert "give one of them" in refused("plan", spec, "--profiles", profiles, "--run", "trial")
    profiles.write_bytes(b"\xff")
    assert "not UTF-8" in refused("plan", spec, "--profiles", profiles)


def test_bounds_that_leave_no_trunk_are_refused(refused, spec, written):
    spec.write_text(SPEC.replace("bottom: 1", "bottom: 5"))
    assert "min_bottom 5 and min_top 1 do not do for 6 blocks" in refused(
        "plan", spec, "--profiles", written({"c": CLIENT})
    )


def test_the_length_of_rows_is_assumed_only_where_nobody_says_it(elsa, spec, written):
    code, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}, row_tokens=None))
    assert code == 0 and "4 rows of 128 tokens a step\nevery row counts as max_tokens, 128 tokens" in out
    _, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}, row_tokens=None), "--row-tokens", "7")
    assert "4 rows of 7 tokens a step\n" in out and "max_tokens" not in out
    _, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}, row_tokens=20), "--row-tokens", "7")
    assert "4 rows of 7 tokens a step\n" in out


def test_it_is_said_where_a_run_would_not_plan(elsa, spec, written):
    _, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}))
    assert "does not plan" not in out
    spec.write_text(SPEC.replace("measured", "given"))
    _, out, _ = elsa("plan", spec, "--profiles", written({"c": CLIENT}))
    assert "a run of this specification does not plan its splits (plan.method)" in out


def test_steps_are_shown_where_they_differ(elsa, spec, written):
    spec.write_text(SPEC.replace("local_steps: 20", "local_steps: 20, steps: proportional"))
    profiles = written({"fast": CLIENT, "slow": {**CLIENT, "block_s": 1.0}})
    _, out, _ = elsa("plan", spec, "--profiles", profiles, "--json")
    fast, slow = json.loads(out)["clients"]
    assert fast["local_steps"] == 20
    assert slow["local_steps"] == max(1, round(20 * fast["seconds"]["total"] / slow["seconds"]["total"])) < 20
    _, out, _ = elsa("plan", spec, "--profiles", profiles)
    assert "steps" in out.splitlines()[3]


def test_planning_what_was_saved_gives_the_same_plan(elsa, spec, written, tmp_path):
    clients, edges = fleet(9)
    saved = tmp_path / "saved.json"
    first = elsa("plan", spec, "--profiles", written(clients, edges), "--json", "--save", saved)
    assert first[2] == f"{saved} is written\n"
    again = elsa("plan", spec, "--profiles", saved, "--json")
    assert (first[0], json.loads(first[1])) == (again[0], json.loads(again[1]))
    kept = json.loads(saved.read_text())
    assert kept["model"] == asdict(SHAPE) and kept["row_tokens"] == 20
    assert set(kept["clients"]) == set(clients) and all(client["edge"] for client in kept["clients"].values())


@pytest.mark.parametrize("count", [1, 4, 40, MOST_BARS, MOST_BARS + 1])
def test_a_picture_is_drawn_for_fleets_of_any_size(elsa, spec, written, count, tmp_path):
    path = tmp_path / "plan.png"
    code, out, err = elsa("plan", spec, "--profiles", written(*fleet(count)), "--plot", path)
    assert code == 0, err
    assert out.endswith(f"{path} is written\n")
    assert imread(path).std() > 0.05


def test_no_two_clients_are_drawn_in_one_place_and_edges_are_apart(spec, written):
    asked = read_specification(spec)
    found = planned(asked, with_shape(figures_of_file(written(*fleet(7, edges=3))), asked, None))
    heights = heights_of(found.clients)
    for one, other, above, below in zip(found.clients, found.clients[1:], heights, heights[1:], strict=False):
        assert math.isclose(below - above, 1 if one.edge == other.edge else 1 + GAP)


class Cloud(RunServiceServicer):
    """Knows the run trial; answers as it is told."""

    def __init__(self, answer):
        self.answer = answer

    def GetRun(self, request, context):
        return pb.GetRunResponse(run=pb.Run(run_id="trial"))

    def GetProfiles(self, request, context):
        if self.answer is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"run {request.run_id} has no profiles")
        return self.answer


@contextmanager
def serving(answer):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_RunServiceServicer_to_server(Cloud(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def client_answer(name, block_s, share=(1, 1), row_tokens=10.0, **links):
    measured = {"edge-1": LinkProfile(**LINK), **links}
    profile = ClientProfile(name=name, block_s=block_s, embeddings_s=0.0, head_s=0.0, memory_bytes=2**31)
    return pb.ProfiledClient(
        client_id=name,
        profile=client_to_proto(profile, row_tokens),
        links=links_to_proto(measured),
        edge_id="edge-1",
        share=fleet_pb2.ClientShare(bottom=share[0], top=share[1], local_steps=20),
    )


def answer(*clients, **more):
    edge = EdgeProfile(name="edge-1", block_s=0.004, memory_bytes=2**33, capacity=4)
    told = pb.ProfiledEdge(edge_id="edge-1", profile=edge_to_proto(edge), capacity=edge.capacity)
    return pb.GetProfilesResponse(shape=shape_to_proto(SHAPE), edges=[told], clients=clients, **more)


def test_the_devices_of_a_run_are_planned_as_they_were_measured(elsa, spec):
    # the quick one keeps more than the bounds ask, which costs a slow one next to nothing
    told = answer(
        client_answer("a", 0.001, row_tokens=10.0), client_answer("b", 1.0, (4, 1), row_tokens=30.0), left_out=3
    )
    with serving(told) as address:
        code, out, err = elsa("plan", spec, "--run", "trial", "--cloud", address)
        _, raw, _ = elsa("plan", spec, "--run", "trial", "--cloud", address, "--json")
    assert code == 0, err
    assert "; 1 split would change\n" in out and "4/1/1 -> 1/4/1" in out
    assert "4 rows of 20 tokens a step" in out
    assert "3 devices did not go into the cloud's answer" in out
    now = {client["client"]: client["split_now"] for client in json.loads(raw)["clients"]}
    assert now == {"a": {"bottom": 1, "trunk": 4, "top": 1}, "b": {"bottom": 4, "trunk": 1, "top": 1}}


def test_a_run_that_has_not_been_planned_is_told(elsa, refused, spec, cloud):
    code, out, err = elsa("run", "submit", spec, "--cloud", cloud, "--no-watch")
    assert code == 0, err
    run_id = out.split()[1]
    assert "no profiles" in refused("plan", spec, "--run", run_id, "--cloud", cloud)
    assert "has no run" in refused("plan", spec, "--run", "nobody", "--cloud", cloud)


def test_what_the_cloud_sends_is_what_its_devices_measured():
    edge = EdgeProfile(name="e", block_s=0.5, crowding_s=0.25, memory_bytes=2**40, capacity=3)
    client = ClientProfile(
        name="c",
        block_s=0.125,
        embeddings_s=0.5,
        head_s=2.0,
        memory_bytes=2**35,
        max_bottom=4,
        links={"e": LinkProfile(**LINK)},
    )
    placed = Member(run_id="r", node_id="c", role=Role.CLIENT, edge_id="e", split="2/1", local_steps=7)
    kept = CloudProfiles(
        shape=SHAPE, edges=(edge,), clients=(ProfiledClient(member=placed, profile=client, row_tokens=12.5),)
    )
    figures = figures_of_run(profiles_to_proto(kept))
    profiles = Profiles(clients=(client,), edges=(edge,), homes={"c": "e"}, model=SHAPE, row_tokens=12.5)
    assert figures.profiles == profiles
    assert figures.previous == {"c": Placed(edge="e", split=Split(bottom=2, trunk=3, top=1))}


def test_a_run_that_gains_little_keeps_its_splits(elsa, spec):
    told = answer(client_answer("a", 0.004, (2, 1)))
    with serving(told) as address:
        code, out, _ = elsa("plan", spec, "--run", "trial", "--cloud", address)
    assert code == 0 and "; 0 splits would change\n" in out
    assert "2/3/1" in out and "kept: as before" in out


def test_a_device_of_a_run_whose_figures_cannot_be_is_refused_alone():
    spoilt = client_answer("b", 1.0)
    spoilt.profile.block_s = math.nan
    unmeasured = client_answer("c", 1.0)
    unmeasured.links[0].up_bytes_per_s = 0
    told = answer(client_answer("a", 1.0), spoilt, unmeasured)
    odd = pb.ProfiledEdge(edge_id="odd", capacity=1)
    told.edges.append(odd)
    figures = figures_of_run(told)
    assert [client.name for client in figures.profiles.clients] == ["a", "c"]
    assert [(fault.role, fault.name) for fault in figures.profiles.faults] == [("edge", "odd"), ("client", "b")]
    assert figures.profiles.clients[1].links == {}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "run trial has no profiles"),
        (answer(client_answer("a", 1.0), client_answer("a", 1.0)), "'a' is there twice"),
        (answer(client_answer("a", 1.0, (5, 3))), "bottom 5 and top 3 of 6"),
        (pb.GetProfilesResponse(), "shape: model: 0 blocks"),
        (answer(), "no client can take part: there is none"),
    ],
)
def test_an_answer_that_cannot_be_planned_is_an_error(refused, spec, told, said):
    with serving(told) as address:
        assert said in refused("plan", spec, "--run", "trial", "--cloud", address)


def test_the_file_in_the_help_can_be_planned(elsa, spec, written, tmp_path):
    example = json.loads(TEXT[TEXT.index("{") : TEXT.rindex("}") + 1])
    code, out, _ = elsa("plan", spec, "--profiles", written(example["clients"], example["edges"]))
    assert code == 0 and out.startswith("1 of 1 client can take part")
    _, shown, _ = elsa("plan", "--help")
    assert "Example: elsa plan" in shown


@pytest.mark.parametrize("width", [90, 150, 250])
def test_on_a_terminal_every_client_has_its_reason_and_no_line_is_cut(elsa, spec, written, monkeypatch, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = elsa("plan", spec, "--profiles", written(*fleet(3)))
    assert code == 0 and "…" not in out
    said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", out).split())
    for reason in ("keeps no more than the bounds ask; edge-0 has room", "privacy", "client-0002"):
        assert reason in said
