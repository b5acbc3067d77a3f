"""How the command tells of members of a run that are not waited for, and of those who are back."""

from io import StringIO

from rich.console import Console

from elsa.v1 import run_pb2
from services.cli.board import Board
from services.cli.events import line


def event(away=None, back=(), away_count=None):
    first = [run_pb2.AwayMember(node_id=name, detail=why) for name, why in (away or {}).items()]
    count = len(first) if away_count is None else away_count
    told = run_pb2.PresenceChanged(away=count, first_away=first, back=len(back), first_back=back)
    return run_pb2.RunEvent(sequence=1, unix_s=0.0, presence_changed=told)


def said(*given, **named):
    return line(event(*given, **named)).partition("  ")[2]


def test_one_node_is_told_of_in_a_sentence():
    assert said({"shop-2": "its certificate is revoked"}) == "shop-2 is not waited for: its certificate is revoked"
    assert said(back=["shop-2"]) == "shop-2 is back"


def test_of_many_a_line_names_a_few_and_how_many_there_are():
    names = [f"c{number}" for number in range(20)]
    text = said(dict.fromkeys(names, "x"), away_count=9_000, back=["d1", "d2"])
    assert text == "9000 not waited for: c0 (x), c1 (x), c2 (x), c3 (x), c4 (x) and 8995 more; d1, d2 are back"


def test_a_run_that_is_shown_says_of_a_node_what_was_said_last():
    board = Board("r", notices=None)
    for change, does in (({"away": {"c": "gone"}}, "not waited for: gone"), ({"back": ["c"]}, "back")):
        board.add(event(**change))
        console = Console(width=100, file=StringIO())
        console.print(board.render())
        assert [text for text in console.file.getvalue().splitlines() if text.split()[:1] == ["c"] and does in text]
