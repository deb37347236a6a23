"""The table of differences in docs/models.md against the tests that measure them."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.parity import Difference, _watched

TESTS = Path(__file__).parent
TABLE = TESTS.parents[1] / "docs" / "models.md"


def _marked() -> set[tuple[str, str]]:
    """Network and part of every test that is marked."""
    found: set[tuple[str, str]] = set()
    for path in TESTS.rglob("test_*.py"):
        parts = path.relative_to(TESTS.parents[1]).with_suffix("").parts
        module = importlib.import_module(".".join(parts))
        for one in vars(module).values():
            marks = getattr(one, "pytestmark", [])
            found |= {mark.args for mark in marks if mark.name == "parity"}
    return found


def test_the_table_has_a_row_for_every_comparison() -> None:
    section = TABLE.read_text().split("## Differences")[1]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if "|" in line]
    assert {(line[0], line[1]) for line in lines[2:]} == _marked()


def test_the_largest_difference_of_all_comparisons_is_kept() -> None:
    difference = Difference()
    with _watched(difference):
        torch.testing.assert_close(torch.ones(2), torch.tensor([1.0, 1.25]), atol=1, rtol=0)
        np.testing.assert_allclose([[3.0]], [[2.5]], atol=1)
        with pytest.raises(AssertionError):
            torch.testing.assert_close({"a": torch.zeros(1)}, {"a": torch.full((1,), -4.0)})
    assert (difference.largest, difference.scale) == (4.0, 4.0)
