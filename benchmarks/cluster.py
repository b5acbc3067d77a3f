"""Whether clients are grouped and trusted as they should be, what trust is worth, and what it costs for large fleets.

    python -m benchmarks.cluster [groups trust learning cost] [--data ../shared/data] [--seeds 5] [--long]

`groups`: 16 really fine-tuned clients of four distributions, warmed up for 15 steps; the adjusted Rand index of the
clusters found. `trust`: 20 clients, four of them bad in one of five ways; the area under the ROC curve of trust; what
rare but honest clients keep, and the clients of small honest fleets. `learning`: federated training with clients that
shuffle their labels, with trust and without (three seeds at most). `cost`: fingerprints drawn at random through
divergence, clusters, trust and assignment to 50 edges. Progress goes to standard error.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.cluster_cost import cost
from benchmarks.cluster_fleet import TREC, Town
from benchmarks.cluster_groups import Groups
from benchmarks.cluster_learning import LONG, SHORT, learning
from benchmarks.cluster_progress import say
from benchmarks.cluster_trust import Trust

PARTS = ("groups", "trust", "learning", "cost")
MOST_LEARNING_SEEDS = 3


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}; all if none is named")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--long", action="store_true", help="learn until accuracy hardly rises; 45 minutes of one core"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.parts) - set(PARTS)):
        sys.exit(f"error: no part {unknown[0]}; there are {', '.join(PARTS)}")
    wanted = args.parts or PARTS
    if wanted != ["cost"] and not args.data.is_dir():
        sys.exit(f"error: no folder {args.data}; give one with trec6 and agnews as --data")
    found = [made for name, made in (("groups", Groups()), ("trust", Trust())) if name in wanted]
    for seed in range(args.seeds if found else 0):
        town = Town(args.data, (TREC,), seed)  # what both ask of it is warmed up once
        for part in found:
            part.add(args.data, town, seed)
            say(f"seed {seed}: {type(part).__name__.lower()} measured")
    for part in found:
        part.show()
    if "learning" in wanted:
        learning(args.data, min(args.seeds, MOST_LEARNING_SEEDS), LONG if args.long else SHORT)
    if "cost" in wanted:
        cost()


if __name__ == "__main__":
    main()
