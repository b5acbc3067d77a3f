"""Work that may not end, such as a look-up by the system, waited for only so long."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; TimeoutError if that takes longer. It is left to itself then, on its thread."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.put((None, error))

    threading.Thread(target=run, name="bounded", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"did not end within {seconds:g} s") from None
    if error is not None:
        raise error
    return cast(Result, result)
