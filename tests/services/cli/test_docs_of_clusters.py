"""What docs/clusters.md says of fields, events, commands and constants is what there is."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from elsa.cluster import assignment, count, fingerprint, problem, trust, trust_probes, trust_updates
from elsa.cluster.summary import SIZE
from elsa.clustering import ASKED, MOST_PROBES, OWN
from elsa.data.probes import FEWEST, MOST_BYTES
from elsa.spec import RunSpec
from services.cloud import cluster_view, comparing

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
WORDS = " ".join(DOCS.split())
SOURCES = [*(ROOT / "services" / "cloud").glob("*.py"), *(ROOT / "elsa" / "cluster").glob("*.py")]


def part(heading):
    return DOCS.split(f"## {heading}\n")[1].split("\n## ")[0]


def cells(text):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def fields(model, path=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}", field.default


def test_every_field_stands_there_with_its_default():
    told = {row[0].strip("`"): row[1].strip("`") for row in cells(part("The fields"))}
    known = {}
    for name in ("clustering", "trust", "assignment"):
        known |= dict(fields(type(getattr(RunSpec(data={"labels": ["a", "b"]}), name)), f"{name}."))
    assert list(told) == list(known)
    own = {"clustering.probes.sentences": f"the project's {OWN}", "trust.enabled": "true"}
    for name, default in known.items():
        said = own.get(name) or (f"{default:g}" if isinstance(default, int | float) else default)
        assert told[name] == said, name


def test_the_example_of_fields_is_a_specification():
    text = part("The fields").split("```yaml\n")[1].split("```")[0]
    spec = RunSpec.from_yaml(f"data: {{labels: [a, b]}}\n{text}")
    assert spec.groups_clients(2)
    assert (spec.clustering.every, spec.assignment.beta) == (5, 2)


@pytest.mark.parametrize(
    "told", re.findall(r"`([^`]+)`", " ".join(row[2] for row in cells(part("What is fallen back to"))))
)
def test_what_a_fallback_is_told_as_is_in_the_code(told):
    code = " ".join(re.sub(r'"\s+f?"', "", path.read_text(encoding="utf-8")) for path in SOURCES)
    for piece in filter(None, map(str.strip, told.split("…"))):
        assert piece in code


CONSTANTS = {
    "median's neighbours": f"up to {trust_probes.NEIGHBOURS} nearest neighbours",
    "reach": f"farther than {trust_probes.REACH} times what is typical",
    "copies": f"nearer than {trust_probes.COPIED} of what is typical",
    "likeness": f"c / ({trust_probes.ALIKE} · median c)",
    "along": f"1 − c / ({trust_updates.ALONG} · median c)",
    "spread": f"|log(norm / m)|, at least {trust_updates.LEAST_SPREAD}",
    "largest middle": {2.0: "at least the fleet's and at most twice that"}[trust_updates.LARGEST_MIDDLE],
    "neutral": f"gets {trust_probes.NEUTRAL} for consistency",
    "smoothing": f"τ ← {trust.KEPT} τ + {1 - trust.KEPT:.1f} ·",
    "least MAD": f"the MAD at least {trust.LEAST_MAD}",
    "rounds": {2: "in two rounds in a row"}[trust.ROUNDS],
    "gap": f"where that is below {count.CLEAR_GAP}",
    "floor": f"below {fingerprint.FLOOR:.0e} of the mean variance".replace("e-08", "e-8"),
    "largest": f"values beyond {fingerprint.LARGEST:.0e}".replace("e+06", "e6"),
    "farthest": f"in medians of all divergences, at most {problem.FARTHEST:g}",
    "exact": f"Up to {assignment.EXACT_PAIRS:,} pairs",
    "searches": f"or for {assignment.MOST_SEARCHES:,} searches",
    "compared": f"Up to {comparing.MOST_COMPARED:,} fingerprints",
    "landmarks": f"compared with {comparing.LANDMARKS:,} of them",
    "shown": f"for up to {cluster_view.MOST_SHOWN} clients",
    "summary": f"a summary of each update, {SIZE} numbers",
    "probes": f"At least {FEWEST} and at most {MOST_PROBES:,} sentences of up to {MOST_BYTES} bytes",
    "asked": f"all of them where there are fewer than {ASKED}",
}


@pytest.mark.parametrize("said", CONSTANTS.values(), ids=CONSTANTS)
def test_a_constant_is_said_as_it_is(said):
    assert said in WORDS


def test_commands_and_files_that_are_named_are_there(elsa):
    for command in set(re.findall(r"elsa (run \w+|[a-z]+)[ `]", DOCS)):
        code, *_ = elsa(*command.split(), "--help")
        assert code == 0, command
    for path in re.findall(r"\]\(([^)#:]+)\)", DOCS):
        assert (ROOT / "docs" / path).exists(), path


def test_links_within_the_page_lead_somewhere():
    headings = {
        re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-") for line in DOCS.splitlines() if line[:3] == "## "
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCS)) <= headings
