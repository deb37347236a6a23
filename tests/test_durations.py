"""Durations as people say them."""

import pytest

from study.durations import told_duration, told_span


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (2 * 86_400, "2 days"),
    ],
)
def test_a_duration_is_in_the_largest_unit_of_which_it_has_two(seconds: float, told: str) -> None:
    assert told_duration(seconds) == told


def test_a_range_has_one_unit_and_one_number_where_both_round_alike() -> None:
    assert told_span(60, 180) == "1–3 min"
    assert told_span(7300, 7500) == "about 2 h"
    assert told_span(3600, 9000) == "1–2 h"
