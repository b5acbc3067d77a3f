"""Whether every device carries what it can: what a small client needs, what plans of splits gain, follow and cost.

    python -m benchmarks.plan [cost memory devices slowdown]

`cost`: seconds of a plan for fleets drawn at random. `memory`: peak resident memory of a client that keeps two blocks
of a model of thirty, against unsplit PEFT training. `devices`: round times of four unequal devices under their
plan and under single fixed splits, up to the first that not all can hold; predicted against measured seconds of a
step. `slowdown`: a device slows down fourfold in round 3, and the plan follows. Progress goes to standard error; the
exit status is 1 if a figure is above the "at most" that is printed beside it.
"""

import argparse
import sys

from benchmarks.plan_cost import cost
from benchmarks.plan_devices import devices, slowdown
from benchmarks.plan_memory import memory

PARTS = {"cost": cost, "memory": memory, "devices": devices, "slowdown": slowdown}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}; all if none is named")
    args = parser.parse_args()
    if unknown := sorted(set(args.parts) - set(PARTS)):
        sys.exit(f"error: no part {unknown[0]}; there are {', '.join(PARTS)}")
    kept = [part() for name, part in PARTS.items() if not args.parts or name in args.parts]
    if not all(kept):
        sys.exit(1)


if __name__ == "__main__":
    main()
