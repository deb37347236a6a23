"""When to write checkpoints."""

import time
from collections.abc import Callable

__all__ = ["CHECKPOINT_EVERY_SECONDS", "EPOCHS_SHARE_SECONDS", "CheckpointTimes"]

CHECKPOINT_EVERY_SECONDS = 300.0  # within an epoch
EPOCHS_SHARE_SECONDS = 10.0  # epochs that end within so many since the last checkpoint write none


class CheckpointTimes:
    """Says after which steps of an epoch to write a checkpoint: the same ones on every process.

    Processes have to agree, and on a GPU that waits for the steps that are under way. So they
    compare clocks seldom: after the first step, then half way through the steps that are left by
    the time taken so far, and so on.

    Args:
        agree: Returns a number of seconds that all processes agree on, given each one's own.
        now: Returns the time in seconds.
    """

    def __init__(
        self, agree: Callable[[float], float], now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._agree = agree
        self._now = now
        self._began, self._steps, self._look = now(), 0, 1

    def due(self) -> bool:
        """Counts one step more, and returns whether to write a checkpoint now."""
        self._steps += 1
        if self._steps < self._look:
            return False
        seconds = self._agree(self._now() - self._began)
        if seconds >= CHECKPOINT_EVERY_SECONDS:
            self._began, self._steps, self._look = self._now(), 0, 1
            return True
        left = self._steps * (CHECKPOINT_EVERY_SECONDS / seconds - 1)
        self._look = self._steps + max(1, int(left / 2))
        return False
