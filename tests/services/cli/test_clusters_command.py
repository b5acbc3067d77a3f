"""Who learns with whom, as the cloud tells it, is shown whole: as a table, as JSON and as a picture."""

import json
import math
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from elsa.errors import MalformedError
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from elsa.v1.tensor_pb2 import DTYPE_FLOAT16, DTYPE_FLOAT32, Tensor
from services.cli.cluster_picture import THICKEST, THINNEST, blocks, colours_of, draw, widths_of
from services.cli.picture import DPI, check_picture
from services.cli.standings import PARTS, clusters_from_proto

WHY = "nearest edge of its cluster [with room]"
HOW = "spectral, as many clusters as edges;\n1 of 6 gave no fingerprint"


def place(client, cluster, edge, trust=0.9, set_aside=False, fingerprint=True):
    parts = dict.fromkeys(PARTS, trust) if fingerprint else None
    return pb.ClientPlace(
        client_id=client,
        cluster=cluster,
        edge_id=edge,
        trust=trust,
        latency_ms=12.34,
        parts=parts,
        detail=WHY,
        set_aside=set_aside,
    )


PLACES = [
    place("a", 1, "e1"),
    place("b", 0, "e2"),
    place("c", 1, "e1", trust=0.3),
    place("d", 0, "e2", fingerprint=False),
    place("e", 1, "e2"),
    place("f", 2, "e1", trust=0.1, set_aside=True),
]


def tensor(matrix):
    return Tensor(dtype=DTYPE_FLOAT32, shape=matrix.shape, data=np.asarray(matrix, "<f4").tobytes())


def apart(places):
    """0.25 within a cluster, 2 between; NaN without a fingerprint."""
    clusters = np.array([one.cluster for one in places])
    matrix = np.where(clusters[:, None] == clusters, 0.25, 2.0)
    np.fill_diagonal(matrix, 0.0)
    without = [not one.HasField("parts") for one in places]
    matrix[without] = matrix[:, without] = np.nan
    return matrix


def answer(places=PLACES, matrix=None, scores=()):
    clusters = len({one.cluster for one in places})
    told = pb.Clustered(version=3, detail=HOW, clusters=clusters, places=places)
    return pb.GetClustersResponse(
        clustered=told, divergence=None if matrix is None else tensor(matrix), scores=scores
    )


def score(cluster, accuracy, own, clients=3, rows=1200, loss=1.0):
    figures = {"version": 4, "rows": rows, "loss": loss, "clients": clients}
    return pb.ClusterScore(
        cluster=cluster,
        evaluation=pb.Evaluation(accuracy=accuracy, **figures),
        cluster_evaluation=pb.Evaluation(accuracy=own, cluster=cluster, **figures),
    )


class Cloud(RunServiceServicer):
    """Knows the run trial; answers as it is told, and notes what it is asked."""

    def __init__(self, answer=None):
        self.answer = answer
        self.asked = []

    def GetRun(self, request, context):
        self.asked.append("GetRun")
        return pb.GetRunResponse(run=pb.Run(run_id="trial"))

    def GetClusters(self, request, context):
        self.asked.append("GetClusters")
        if self.answer is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"run {request.run_id} has not clustered")
        return self.answer


@contextmanager
def serving(cloud):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_RunServiceServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def shown(elsa):
    """`shown(answer, *flags)`: what the command prints, and on standard error; it must succeed."""

    def call(told, *flags):
        with serving(Cloud(told)) as address:
            code, out, err = elsa("clusters", "trial", "--cloud", address, *flags)
        assert code == 0, err
        return out, err

    return call


def row_of(out, client):
    return next(line.split() for line in out.splitlines() if line.split()[:1] == [client])


def test_every_client_is_a_line_ordered_by_cluster(shown):
    out, err = shown(answer())
    assert err == ""
    lines = [line.split() for line in out.splitlines() if "[with room]" in line]
    assert [line[0] for line in lines] == ["b", "d", "a", "c", "e", "f"]
    assert [line[1] for line in lines] == ["0", "0", "1", "1", "1", "2"]
    assert row_of(out, "a") == ["a", "1", "e1", *["0.90"] * 5, "12.3", *WHY.split()]


def test_how_it_was_decided_is_told_on_one_line(shown):
    out, _ = shown(answer())
    assert "run trial, from version 3 on: 3 clusters of 6 clients\n" in out
    assert "\nspectral, as many clusters as edges; 1 of 6 gave no fingerprint\n" in out


def test_who_is_set_aside_or_little_trusted_or_unknown_is_told(shown):
    out, _ = shown(answer())
    assert "set aside: nearest" in " ".join(row_of(out, "f"))
    assert "low trust: nearest" in " ".join(row_of(out, "c"))
    assert row_of(out, "d")[3:8] == ["0.90", *["–"] * 4]
    assert row_of(out, "a")[9] == "nearest"


@pytest.mark.parametrize("columns", ["20", "90"])
def test_nothing_is_cut_off_on_a_narrow_terminal(shown, monkeypatch, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard output for a terminal
    monkeypatch.setenv("COLUMNS", columns)
    name, edge = "a-client-with-a-name", "an-edge-with-a-name"
    out, _ = shown(answer([place(name, 0, edge)]))
    assert "…" not in out
    assert row_of(out.replace("\x1b[0m", ""), name)[:9] == [name, "0", edge, *["0.90"] * 5, "12.3"]
    words = {word for line in out.splitlines()[3:] for word in line.split()}
    assert set(WHY.split()) <= words


def test_json_holds_all_that_the_cloud_said_in_the_order_of_the_table(shown):
    out, err = shown(answer(matrix=apart(PLACES)), "--json")
    told = json.loads(out)
    assert err == ""
    assert (told["run"], told["version"], told["clusters"]) == ("trial", 3, 3)
    assert told["how"] == " ".join(HOW.split())
    assert [one["client"] for one in told["clients"]] == ["b", "d", "a", "c", "e", "f"]
    assert told["clients"][2] == {
        "client": "a",
        "cluster": 1,
        "edge": "e1",
        "trust": 0.9,
        "parts": dict.fromkeys(PARTS, 0.9),
        "set_aside": False,
        "latency_ms": 12.34,
        "why": WHY,
    }
    assert told["clients"][1]["parts"] is None
    assert told["divergence"][0] == [0.0, None, 2.0, 2.0, 2.0, 2.0]
    assert told["divergence"][2] == [2.0, None, 0.0, 0.25, 0.25, 2.0]


def test_every_cluster_is_a_line_with_both_accuracies_where_it_has_been_evaluated(shown):
    out, _ = shown(answer(scores=[score(1, 0.71, 0.74), score(0, 0.5, 0.25, clients=1, rows=10)]))
    lines = [line for line in out.splitlines() if line.startswith("cluster ")]
    assert lines == [
        "cluster 0: 2 clients, 10 rows of 1 of them, accuracy 0.500 with the run's adapter, 0.250 with its own "
        "(version 4)",
        "cluster 1: 3 clients, 1,200 rows, accuracy 0.710 with the run's adapter, 0.740 with its own (version 4)",
        "cluster 2: 1 client",
    ]


def test_that_nothing_is_evaluated_yet_is_said(shown):
    said = (
        "no cluster's own adapter has been evaluated: it takes a closed round, and two of its clients at one edge\n"
    )
    assert said in shown(answer())[0]
    assert said not in shown(answer(scores=[score(1, 0.71, 0.74)]))[0]


def test_json_holds_the_scores_of_both_adapters_by_cluster(shown):
    out, _ = shown(answer(scores=[score(2, 0.5, 0.75), score(0, 0.25, 0.5)]), "--json")
    told = json.loads(out)["scores"]
    assert [one["cluster"] for one in told] == [0, 2]
    assert told[1] == {
        "cluster": 2,
        "version": 4,
        "clients": 3,
        "rows": 1200,
        "accuracy": 0.5,
        "loss": 1.0,
        "own_accuracy": 0.75,
        "own_loss": 1.0,
    }


@given(st.permutations(range(len(PLACES))))
def test_the_order_in_which_the_cloud_tells_clients_is_irrelevant(order):
    moved = [PLACES[n] for n in order]
    known, found = (clusters_from_proto(answer(places, apart(places))) for places in (PLACES, moved))
    assert found.clients == known.clients
    np.testing.assert_array_equal(found.divergence, known.divergence)


def test_a_run_that_has_not_clustered_is_said_to_have_not(refused):
    with serving(Cloud()) as address:
        assert "run trial has not clustered" in refused("clusters", "trial", "--cloud", address)


@pytest.mark.parametrize(
    ("told", "field"),
    [
        (answer([]), "clustered: holds no client"),
        (answer([place("a", 0, "e", trust=math.nan)]), "trust: nan of 'a'"),
        (answer([place("a", 0, "e", trust=1.5)]), "trust: 1.5 of 'a'"),
        (answer([pb.ClientPlace(client_id="a", latency_ms=-1)]), "latency_ms: -1.0 of 'a'"),
        (answer([pb.ClientPlace(client_id="a", parts={"update": 2})]), "update: 2.0 of 'a'"),
        (answer(scores=[score(0, 1.5, 0.5)]), r"ClusterScore\.evaluation\.accuracy: 1.5 of cluster 0"),
        (answer(scores=[score(0, 0.5, math.nan)]), r"cluster_evaluation\.accuracy: nan of cluster 0"),
        (answer(scores=[score(0, 0.5, 0.5, loss=math.inf)]), r"evaluation\.loss: inf of cluster 0"),
        (answer(scores=[score(3, 0.5, 0.5, rows=0)]), r"evaluation\.rows: 0 for cluster 3"),
        (answer(scores=[score(0, 0.5, 0.5)] * 2), "scores: cluster 0 comes twice"),
        (answer(matrix=np.zeros((5, 6))), r"divergence: type 1, shape \[5, 6\]"),
        (answer(matrix=np.full((6, 6), np.inf)), "divergence: holds infinity"),
        (answer(matrix=np.full((6, 6), -1.0)), "divergence: holds infinity or a number below 0"),
    ],
)
def test_what_is_no_answer_is_refused_by_its_field(told, field):
    with pytest.raises(MalformedError, match=field):
        clusters_from_proto(told)


def test_divergences_of_another_type_or_length_are_refused():
    for damage in ({"dtype": DTYPE_FLOAT16}, {"data": b"\0" * 143}):
        told = answer(matrix=np.zeros((6, 6)))
        told.divergence.MergeFrom(Tensor(**damage))
        with pytest.raises(MalformedError, match="divergence: type"):
            clusters_from_proto(told)


def fleet(count, clusters=3):
    return [place(f"c{n:04}", n % clusters, f"e{n % clusters}", trust=1 - n / count / 2) for n in range(count)]


def picture(path):
    """(height, width, colours) from 0 to 1."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)[..., :3]


def test_the_picture_is_a_png_of_heat_map_and_map(shown, tmp_path):
    path = tmp_path / "clusters.png"
    path.write_text("an earlier one")
    out, _ = shown(answer(matrix=apart(PLACES)), "--plot", path)
    assert out.endswith(f"{path} is written\n")
    pixels = picture(path)
    assert pixels.shape[:2] == (5 * DPI, 13.5 * DPI)
    half = pixels.shape[1] // 2
    for side in (pixels[:, : half // 2], pixels[:, half:]):
        assert len(np.unique(side.reshape(-1, 3), axis=0)) > 20
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["clusters.png"]


def near(pixels, colour):
    return int((np.abs(pixels - np.array(colour)).max(-1) < 0.02).sum())


def test_the_heat_map_is_dark_within_clusters_bright_between_and_grey_where_nothing_is_known(tmp_path):
    from matplotlib import colormaps

    places = fleet(9)
    dark, bright, grey = colormaps["viridis"](0.0)[:3], colormaps["viridis"](1.0)[:3], (211 / 255,) * 3
    matrix = apart(places)
    matrix[matrix == 0.25] = 0
    draw(clusters_from_proto(answer(places, matrix)), tmp_path / "known.png")
    known = picture(tmp_path / "known.png")
    assert 1.5 < near(known, bright) / near(known, dark) < 2.5  # 54 cells to 27, less borders; the scale has both
    places[0].ClearField("parts")
    draw(clusters_from_proto(answer(places, apart(places))), tmp_path / "unknown.png")
    assert near(picture(tmp_path / "unknown.png"), grey) > 10 * near(known, grey)  # which are in the letters alone


def test_borders_are_drawn_between_clusters_alone():
    found = clusters_from_proto(answer())
    assert blocks(found.clients) == [(0, 0, 2), (1, 2, 5), (2, 5, 6)]


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_the_line_to_a_nearer_edge_is_never_thinner(latencies_ms):
    widths = widths_of(latencies_ms)
    order = np.argsort(latencies_ms)
    assert (np.diff(widths[order]) <= 1e-12).all()
    assert THINNEST - 1e-12 <= widths.min() <= widths.max() <= THICKEST + 1e-12
    assert widths.max() == THICKEST


def test_clusters_of_a_small_number_are_never_the_red_of_who_is_not_trusted():
    found = clusters_from_proto(answer([place(f"c{n}", n, "e") for n in range(9)]))
    colours = [colour[:3] for colour in colours_of(found.clients).values()]
    assert len(set(colours)) == 9
    assert min(max(abs(part - red) for part, red in zip(one, (1, 0, 0), strict=True)) for one in colours) > 0.3


@pytest.mark.parametrize("set_aside", [False, True])
def test_who_is_not_trusted_is_red_on_the_map(tmp_path, set_aside):
    places = [place(f"c{n}", n % 2, f"e{n % 2}") for n in range(6)]
    draw(clusters_from_proto(answer(places)), tmp_path / "trusted.png")
    places[3] = place("c3", 1, "e1", trust=0.6 if set_aside else 0.2, set_aside=set_aside)
    draw(clusters_from_proto(answer(places)), tmp_path / "marked.png")
    assert near(picture(tmp_path / "trusted.png"), (1, 0, 0)) == 0
    assert near(picture(tmp_path / "marked.png"), (1, 0, 0)) > 10


def test_above_400_clients_the_map_is_drawn_alone_and_this_is_said(shown, tmp_path):
    path = tmp_path / "clusters.png"
    out, err = shown(answer(fleet(401, clusters=12)), "--plot", path, "--json")
    assert json.loads(out)["divergence"] is None
    assert err == f"{path} is written, the map alone: the cloud gives no divergences for more than 400 clients\n"
    pixels = picture(path)
    assert pixels.shape[:2] == (16 * DPI, 7 * DPI)
    assert (pixels < 0.9).any(-1).mean() > 0.01


@pytest.mark.parametrize("matrix", [np.zeros((1, 1)), np.full((1, 1), np.nan), None], ids=["zero", "nan", "none"])
def test_one_client_alone_is_drawn(tmp_path, matrix):
    draw(clusters_from_proto(answer([place("$a_", 0, "$e$")], matrix)), tmp_path / "one.png")
    assert (picture(tmp_path / "one.png") < 0.5).any()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clusters.pdf", "pictures are PNG"),
        ("nowhere/clusters.png", "cannot be written (No such file"),
        ("file/clusters.png", "cannot be written (Not a directory"),
        ("folder.png", "is no file that may be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_cloud_is_asked(elsa, tmp_path, name, said):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    cloud = Cloud(answer())
    with serving(cloud) as address:
        code, out, err = elsa("clusters", "trial", "--cloud", address, "--plot", tmp_path / name)
    assert (code, out) == (1, "")
    assert f"--plot {tmp_path / name}: " in err
    assert said in err
    assert cloud.asked == []


def test_a_check_of_the_file_leaves_nothing_behind(tmp_path):
    check_picture(tmp_path / "clusters.png")
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_is_shown(elsa, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = elsa("clusters", "--help")
    for said in ("Show who learns with whom", "FILE.png", "--json", "above 400 clients"):
        assert said in out
