"""Sizes in words."""

import pytest

from study.sizes import told_bytes


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_260_000, "1.3 MB"),
        (3 * 10**10, "30.0 GB"),
    ],
)
def test_bytes_are_told_in_the_largest_unit_that_they_fill(count: int, told: str) -> None:
    assert told_bytes(count) == told
