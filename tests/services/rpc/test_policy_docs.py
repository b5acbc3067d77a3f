"""The table that operators read says what the table of calls says."""

from pathlib import Path

from services.rpc.policy import CALLS
from services.rpc.rates import RateLimits

PAGE = Path(__file__).parents[3] / "docs" / "identity.md"
HEADING = "## What each role may call"
ROLES = ("admin", "edge", "client")


def section():
    text = PAGE.read_text()
    begin = text.index(HEADING)
    return text[begin : text.index("\n## ", begin)]


def rows_of(server):
    """A row for each call: who may make it, and which field names the caller."""
    for method, rule in CALLS[server].items():
        service, _, name = method.removeprefix("/").rpartition("/")
        cells = [cell_of(rule.names(role)) for role in ROLES]
        yield f"| {service.rpartition('.')[2]}.{name} | {' | '.join(cells)} |"


def cell_of(names):
    if names is None:
        return ""
    fields = [f"`{field}`" for field in (names.first, *names.every) if field]
    return ", ".join(fields) or "yes"


def test_the_page_has_each_call_of_each_server_as_it_is():
    _, cloud, edge = section().split("\n| at ")
    for server, shown in (("cloud", cloud), ("edge", edge)):
        rows = [line for line in shown.splitlines() if line.startswith("| ")]
        assert rows == list(rows_of(server))
        assert shown.startswith(f"the {server} | " if server == "cloud" else "an edge | ")


def test_the_page_says_the_limits_as_they_are():
    words = " ".join(section().split())
    limits = RateLimits()
    assert f"{limits.calls_per_s:g} calls a second" in words
    assert f"{limits.calls_burst:,} at once" in words
    assert f"{limits.streams_per_s:g} new streams a second ({limits.streams_burst} at once)" in words
    assert f"{limits.open_streams} streams open" in words
    assert f"{limits.request_bytes_per_s / 1e9:g} GB of requests a second" in words
