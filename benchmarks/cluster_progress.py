"""How far a long benchmark is, on standard error, so that its tables on standard output stay clean."""

import sys
import time


def say(text: str) -> None:
    """One line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
