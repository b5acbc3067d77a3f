"""`python -m benchmarks [step round demo trec wire]`: all, or those named, one after another on a quiet machine."""

import importlib
import sys

ALL = ("step", "round", "demo", "trec", "wire")


def main() -> None:
    """Run what was asked for."""
    wanted = sys.argv[1:] or list(ALL)
    if unknown := sorted(set(wanted) - set(ALL)):
        sys.exit(f"error: no benchmark {unknown[0]}; there are {', '.join(ALL)}")
    sys.argv = sys.argv[:1]
    for name in wanted:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
