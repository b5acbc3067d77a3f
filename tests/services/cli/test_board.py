"""The board says what the events said, whatever came between."""

import io

from elsa.v1 import adapter_pb2, fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.board import Board
from services.cli.events import line, size


def report(client, steps, loss, up, down):
    seconds = {"bottom": 1.0, "network": 0.5, "wait": 0.25, "trunk": 2.0, "top": 1.5}
    return adapter_pb2.ClientReport(
        client_id=client, steps=steps, loss=loss, bytes={"up": up, "down": down}, seconds=seconds
    )


def evaluation(version, accuracy, clients):
    numbers = pb.Evaluation(version=version, rows=10, loss=1.0, accuracy=accuracy, clients=clients)
    return pb.RunEvent(evaluation_reported={"client_id": "c", "evaluation": numbers, "total": numbers})


EVENTS = [
    pb.RunEvent(sequence=1, state_changed={"state": fleet_pb2.RUN_STATE_PENDING}),
    pb.RunEvent(sequence=2, node_joined={"node_id": "c2", "detail": "no rows", "accepted": False}),
    pb.RunEvent(sequence=3, client_assigned={"client_id": "c1", "edge_id": "e1", "bottom": 1, "top": 1}),
    evaluation(0, 0.25, 1),
    pb.RunEvent(node_progress={"node_id": "c1", "progress": {"activity": "training", "step": 3, "steps": 20}}),
    pb.RunEvent(update_received={"edge_id": "e1", "version": 0, "reports": [report("c1", 10, 1.0, 100, 50)]}),
    pb.RunEvent(update_received={"edge_id": "e2", "version": 0, "reports": [report("c2", 30, 2.0, 100, 50)]}),
    pb.RunEvent(round_closed={"version": 1, "edge_ids": ["e1", "e2"], "seconds": 4.0}),
    evaluation(1, 0.5, 1),
    evaluation(1, 0.75, 2),
    pb.RunEvent(state_changed={"state": fleet_pb2.RUN_STATE_FAILED, "reason": "no room\nat all"}),
]


def board():
    made = Board("r1")
    for event in EVENTS:
        made.add(event)
    return made


def test_work_of_a_round_is_summed_over_its_clients():
    version = board().versions[1]
    assert version.wire_bytes == 300
    assert version.training_loss == 1.75  # weighted by steps
    assert version.phase_seconds() == {"bottom": 2.0, "network": 1.0, "wait": 0.5, "trunk": 4.0, "top": 3.0}
    assert (version.accuracy, version.seconds) == (0.75, 4.0)


def test_ending_is_one_line_with_the_reason():
    assert board().ending() == "run r1 is FAILED: no room at all"


def test_view_shows_every_node_and_version():
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(board().render())
    text = console.export_text()
    assert "training step 3/20" in text
    assert "refused: no rows" in text
    assert "0.750" in text


def test_markup_in_others_words_is_shown_as_it_is():
    from rich.console import Console

    made = board()
    said = "no column [/data]: [red]gone[/blue]"
    made.add(pb.RunEvent(node_joined={"node_id": "c9[/c]", "detail": said, "accepted": False}))
    made.add(pb.RunEvent(client_assigned={"client_id": "c9[/c]", "edge_id": "e[/e]", "bottom": 1, "top": 1}))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(made.render())
    text = console.export_text()
    assert said in text
    assert "c9[/c]" in text
    assert "e[/e]" in text


def test_every_kept_event_is_a_line_and_progress_is_none():
    for event in EVENTS:
        text = line(event)
        assert (text is None) == (event.WhichOneof("event") == "node_progress")
        assert text is None or "\n" not in text


PARTS = {"consistency": 0.1, "repeatability": 1.0, "originality": 0.9, "update": 0.5}
MADE = {
    "clusters": 2,
    "detail": "spectral,\nas many as edges",
    "places": [
        {"client_id": "c1", "cluster": 0, "edge_id": "e1", "trust": 0.9},
        {"client_id": "c2", "cluster": 1, "edge_id": "e2", "trust": 0.3, "parts": PARTS},
        {"client_id": "c3", "cluster": 1, "edge_id": "e2", "trust": 0.1, "set_aside": True},
    ],
}
CLUSTERED = pb.RunEvent(sequence=9, clustered=MADE)
ASIDE = pb.RunEvent(
    sequence=10,
    trust_changed={"client_id": "c1", "trust": 0.15, "set_aside": True, "detail": "below 0.2 twice", "parts": PARTS},
)


def rendered(events):
    from rich.console import Console

    made = Board("r1")
    for event in events:
        made.add(event)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(made.render())
    return [line.split() for line in console.export_text().splitlines()]


def progress(client, activity, **more):
    return pb.RunEvent(node_progress={"node_id": client, "progress": {"activity": activity, **more}})


def test_warming_up_is_shown_as_no_round():
    warming = progress("c1", "warming up", step=3, steps=15, loss=1.25)
    states = [pb.RunEvent(state_changed={"state": state}) for state in (fleet_pb2.RUN_STATE_WARMUP, 5)]
    shown = rendered([states[0], warming, progress("c2", "answering probes")])
    assert ["c1", "warming", "up", "step", "3/15,", "loss", "1.250"] in shown
    assert ["c2", "answering", "probes"] in shown
    assert ["c1", "round", "1.1:", "training"] in rendered([*states, progress("c1", "training")])


def test_clusters_are_shown_beside_each_client_as_they_stand_now():
    busy = [progress(client, "training") for client in ("c1", "c2", "c3", "late")]
    does = ["round", "1.1:", "training"]
    shown = rendered([*busy, CLUSTERED])
    assert ["node", "edge", "cluster", "trust", "does"] in shown
    assert ["c1", "e1", "0", "0.90", *does] in shown
    assert ["c2", "e2", "1", "0.30", "low", "trust", *does] in shown
    assert ["late", *does] in shown
    assert ["c1", "e1", "0", "0.15", "set", "aside", *does] in rendered([*busy, CLUSTERED, ASIDE])
    assert ["node", "edge", "does"] in rendered(busy)


def test_clusters_are_a_line_with_who_is_to_be_noticed():
    assert line(CLUSTERED).endswith(
        "  3 clients in 2 clusters of 1 to 2; spectral, as many as edges; low trust: c2 0.30; set aside: c3 0.10"
    )


def test_a_line_of_clusters_stays_short_for_a_large_fleet():
    places = [{"client_id": f"c{n:04}", "trust": 0.1, "cluster": n % 2} for n in range(1000)]
    text = line(pb.RunEvent(clustered={"clusters": 2, "detail": "how", "places": places}))
    assert text.endswith(
        "1000 clients in 2 clusters of 500; how; low trust: "
        "c0000 0.10, c0001 0.10, c0002 0.10, c0003 0.10, c0004 0.10 and 995 more"
    )


def test_a_change_of_trust_is_a_line_with_its_parts():
    parts = "(consistency 0.10, repeatability 1.00, originality 0.90, update 0.50)"
    assert line(ASIDE).endswith(f"  c1 is set aside, its trust 0.15: below 0.2 twice {parts}")
    back = pb.RunEvent(trust_changed={"client_id": "c1", "trust": 0.5, "detail": "above\nagain"})
    assert line(back).endswith("  c1 counts with trust 0.50: above again")


def test_sizes_are_in_the_unit_that_suits_them():
    assert [size(n) for n in (0, 999, 1000, 1_500_000, 2.5e9)] == ["0 B", "999 B", "1.0 kB", "1.5 MB", "2.5 GB"]


def judged(client, version, accuracy, own=None, rows=10):
    """A client's evaluation event, with its cluster's own accuracy where there is one."""
    mine = pb.Evaluation(version=version, rows=rows, loss=1.0, accuracy=accuracy)
    told = pb.EvaluationReported(client_id=client, evaluation=mine, total=mine)
    if own is not None:
        told.cluster_evaluation.CopyFrom(pb.Evaluation(version=version, rows=rows, accuracy=own, cluster=1))
    return pb.RunEvent(sequence=1, evaluation_reported=told)


def test_an_evaluation_under_both_adapters_is_a_line_with_both():
    assert "c1 evaluates version 3: accuracy 0.710; so far" in line(judged("c1", 3, 0.71))
    assert "c1 evaluates version 3: accuracy 0.710, 0.740 with its cluster's own; so far" in line(
        judged("c1", 3, 0.71, 0.74)
    )


def test_both_accuracies_of_the_newest_version_stand_beside_each_client():
    busy = [progress(client, "evaluating") for client in ("c1", "c2")]
    does = ["round", "1.1:", "evaluating"]
    shown = rendered([*busy, judged("c1", 1, 0.5, 0.6), judged("c1", 2, 0.7, 0.8), judged("c2", 1, 0.4)])
    assert ["node", "edge", "accuracy", "own", "does"] in shown
    assert ["c1", "0.700", "0.800", *does] in shown
    assert ["c2", "0.400", "–", *does] in shown
    assert ["node", "edge", "does"] in rendered([*busy, judged("c1", 1, 0.5)])


def test_a_client_without_a_cluster_adapter_counts_with_the_runs():
    made = Board("r1")
    for event in (judged("c1", 1, 0.5, 0.8, rows=30), judged("c2", 1, 0.4, rows=10)):
        made.add(event)
    assert made.versions[1].own_accuracy == (30 * 0.8 + 10 * 0.4) / 40
    made.add(judged("c1", 2, 0.5))
    assert made.versions[2].own_accuracy is None


def test_the_order_of_evaluations_is_irrelevant_to_what_clusters_reach():
    told = [judged("c1", 1, 0.5, 0.8, rows=30), judged("c2", 1, 0.4, 0.1), judged("c3", 1, 0.9)]
    boards = [Board("r1"), Board("r1")]
    for made, events in zip(boards, (told, told[::-1]), strict=True):
        for event in events:
            made.add(event)
    one, other = (made.versions[1].own_accuracy for made in boards)
    assert abs(one - other) < 1e-12


ANEW = pb.RunEvent(sequence=11, clustered={**MADE, "version": 4})


def test_a_later_decision_is_a_line_with_the_version_that_it_holds_from():
    assert line(ANEW).endswith(
        "  from version 4 on: 3 clients in 2 clusters of 1 to 2; spectral, as many as edges; "
        "low trust: c2 0.30; set aside: c3 0.10"
    )
    assert "version" not in line(CLUSTERED)


def test_the_newest_changes_of_trust_and_clusters_stay_in_view():
    trusts = [
        pb.RunEvent(trust_changed={"client_id": f"c{n}", "trust": 0.5, "detail": "taken back"}) for n in range(5)
    ]
    said = [" ".join(words) for words in rendered([CLUSTERED, ANEW, *trusts[:4]])]
    assert sum("counts with trust 0.50: taken back" in text for text in said) == 4
    assert sum("from version 4 on" in text for text in said) == 1
    said = [" ".join(words) for words in rendered([ANEW, *trusts])]
    assert sum("counts with trust 0.50: taken back" in text for text in said) == 5
    assert not any("from version 4 on" in text for text in said)


def test_a_client_that_is_taken_back_is_shown_without_a_mark():
    back = pb.RunEvent(trust_changed={"client_id": "c1", "trust": 0.6, "detail": "taken back"})
    shown = rendered([progress("c1", "training"), CLUSTERED, ASIDE, back])
    assert ["c1", "e1", "0", "0.60", "round", "1.1:", "training"] in shown


SECONDS = {"bottom": 0.5, "trunk": 0.25}
PLANNED = pb.RunEvent(
    sequence=12,
    planned={
        "version": 2,
        "step_s": 1.2345,
        "changed": 2,
        "notes": ["edge-1: changed"],
        "clients": [
            {"client_id": "c1", "edge_id": "e1", "split": "4/25/1", "local_steps": 20, "seconds": SECONDS},
            {"client_id": "c2", "edge_id": "e1", "split": "2/27/1", "local_steps": 5},
        ],
    },
)


def test_a_plan_of_splits_is_a_short_line_with_who_changes():
    assert line(PLANNED).endswith(
        "  splits planned after round 2, 1.23 s a step; 2 clients changed, bottom/trunk/top: c1 4/25/1, c2 2/27/1"
    )
    same = pb.RunEvent(planned={"version": 3, "step_s": 0.5})
    assert line(same).endswith("  splits planned after round 3, 0.5 s a step; as before")


def test_the_first_plan_of_a_large_fleet_stays_short():
    clients = [{"client_id": f"c{n:04}", "split": "1/4/1"} for n in range(1000)]
    text = line(pb.RunEvent(planned={"step_s": 1.0, "changed": 3000, "clients": clients}))
    assert text.endswith(
        "  splits planned, 1 s a step; 3000 clients changed, bottom/trunk/top: "
        "c0000 1/4/1, c0001 1/4/1, c0002 1/4/1, c0003 1/4/1, c0004 1/4/1 and 2995 more"
    )


def test_the_newest_split_stands_beside_each_client_once_there_is_a_plan():
    busy = [progress(client, "training") for client in ("c1", "c3")]
    does = ["round", "1.1:", "training"]
    again = pb.RunEvent(planned={"version": 3, "changed": 1, "clients": [{"client_id": "c1", "split": "3/26/1"}]})
    shown = rendered([*busy, PLANNED, again])
    assert ["node", "edge", "split", "does"] in shown
    assert ["c1", "3/26/1", *does] in shown and ["c3", *does] in shown
    assert any(words[1:4] == ["splits", "planned", "after"] for words in shown)
    assert ["node", "edge", "does"] in rendered(busy)


def closed(version, absent, clients=4, total=None):
    told = [{"client_id": name, "detail": why} for name, why in absent.items()]
    numbers = {"version": version, "edge_ids": ["e1"], "seconds": 4.0, "clients": clients}
    return pb.RunEvent(round_closed={**numbers, "absent": total or len(told), "absentees": told})


def test_a_round_without_somebody_is_a_line_with_the_reasons():
    assert line(closed(2, {})).endswith("  round 2 closed after 4.0 s with e1")
    said = line(closed(2, {"c1": "not heard of for 75 s", "c4": "left: no\nmemory"}))
    assert said.endswith("; 2 of 4 clients not in it: c1 (not heard of for 75 s), c4 (left: no memory)")
    few = {f"c{number}": "e1 went on without it" for number in range(20)}
    assert line(closed(2, few, 10_000, 3_000)).endswith("c4 (e1 went on without it) and 2995 more")


def test_who_is_not_in_a_round_is_shown_beside_it_and_below_the_nodes():
    shown = rendered([progress("c1", "training", step=3, steps=20), closed(1, {"c1": "left: no memory"})])
    assert ["c1", "not", "in", "round", "1:", "left:", "no", "memory"] in shown
    assert any(words[-11:-6] == ["1", "of", "4", "clients", "not"] for words in shown)


def test_why_a_run_completed_as_it_did_stays_in_view():
    done = {"state": fleet_pb2.RUN_STATE_COMPLETED, "reason": "1 of 4 clients did not take part to the end"}
    assert ["1", "of", "4", "clients", "did", "not", "take", "part", "to", "the", "end"] in rendered(
        [pb.RunEvent(state_changed=done)]
    )


def test_accuracies_say_whom_they_are_of():
    told = [evaluation(0, 0.2, 4), evaluation(1, 0.5, 4), evaluation(2, 0.6, 3)]
    same = [" ".join(words) for words in rendered(told[:2])]
    assert "accuracy and loss of 4 clients, 10 rows" in same
    assert "accuracy and loss: start to round 1 of 4 clients, 10 rows; round 2 of 3 clients, 10 rows" in " ".join(
        " ".join(words) for words in rendered(told)
    )
    assert line(told[2]).endswith("; so far 3 clients, 10 rows: accuracy 0.600, loss 1.000")
