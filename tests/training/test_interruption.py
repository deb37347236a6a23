import itertools
import math

import pytest

from study.training import interruption
from study.training.interruption import CheckpointTimes


def _written(durations: list[float], *, mine: float = 1.0) -> tuple[list[float], int]:
    """When checkpoints are written, in seconds since the start, and how often clocks are compared.

    Args:
        durations: Of each step, by the clock that counts, in seconds.
        mine: How fast this process's own clock goes, which doesn't count.
    """
    now, looks, last = 0.0, 0, 0.0

    def agree(seconds: float) -> float:
        nonlocal looks
        looks += 1
        assert seconds == pytest.approx((now - last) * mine)
        return now - last

    times = CheckpointTimes(agree, lambda: now * mine)
    written = []
    for duration in durations:
        now += duration
        if times.due():
            written.append(now)
            last = now
    return written, looks


@pytest.mark.parametrize("duration", [0.01, 0.7, 20.0, 299.0])
def test_steps_of_any_length_are_saved_every_five_minutes(duration: float) -> None:
    written, _ = _written([duration] * math.ceil(1300 / duration))
    assert len(written) >= 2
    for before, now in itertools.pairwise([0.0, *written]):
        assert 299.99 < now - before < 300.01 + duration


def test_clocks_are_compared_seldom() -> None:
    written, looks = _written([0.05] * 24_000)  # 20 minutes
    assert len(written) >= 3
    assert looks < 20 * (len(written) + 1)


def test_a_faster_start_delays_the_first_checkpoint_to_at_most_twice_its_time() -> None:
    written, _ = _written([0.1] * 10 + [1.0] * 5000)
    assert 300 <= written[0] < 2000
    assert max(later - before for before, later in itertools.pairwise(written)) < 310


def test_a_process_with_another_clock_saves_at_the_same_steps() -> None:
    durations = [0.3 + 0.1 * (number % 7) for number in range(3000)]
    assert _written(durations) == _written(durations, mine=1.3)


def test_a_short_epoch_is_not_saved_within() -> None:
    assert interruption.CHECKPOINT_EVERY_SECONDS == 300
    assert _written([1.0] * 299)[0] == []
