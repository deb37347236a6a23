"""How far each network is from the arithmetic of its original, at equal weights.

    python -m benchmarks.parity

Runs the tests that are marked ``parity``, which state an original's arithmetic again, one sum at a
time, or hold another library's network, and prints the largest absolute difference that each
compared, beside the largest number that it expected. `docs/models.md` has the table.
"""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parents[1] / "tests" / "models"
HEADER = ("Network", "Compared", "Largest difference", "of numbers up to")


@dataclass(kw_only=True, slots=True)
class Difference:
    """What was compared of a network.

    Attributes:
        largest: The largest absolute difference.
        scale: The largest absolute number that was expected.
    """

    largest: float = 0.0
    scale: float = 0.0

    def add(self, ours: Any, expected: Any) -> None:
        """Takes in two arrays, or mappings or sequences of such."""
        if isinstance(expected, dict):
            ours, expected = ([one[key] for key in expected] for one in (ours, expected))
        if isinstance(expected, list | tuple):
            for one, other in zip(ours, expected, strict=True):
                self.add(one, other)
            return
        tensors = [torch.as_tensor(x).detach().double() for x in (ours, expected)]
        first, second = torch.broadcast_tensors(*tensors)
        self.largest = max(self.largest, float((first - second).abs().max()))
        self.scale = max(self.scale, float(second.abs().max()))


class Collector:
    """A pytest plug-in that notes what the tests that are marked ``parity`` compare."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Difference] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Watches a test's comparisons."""
        marker = item.get_closest_marker("parity")
        assert marker is not None
        network, part = marker.args
        with _watched(self.found.setdefault((network, part), Difference())):
            return (yield)


@contextmanager
def _watched(difference: Difference) -> Generator[None, None, None]:
    """Has the comparisons of torch and NumPy noted."""

    def noting(compare: Callable[..., None]) -> Callable[..., None]:
        def noted(ours: Any, expected: Any, *args: Any, **options: Any) -> None:
            difference.add(ours, expected)
            compare(ours, expected, *args, **options)

        return noted

    with (
        patch.object(torch.testing, "assert_close", noting(torch.testing.assert_close)),
        patch.object(np.testing, "assert_allclose", noting(np.testing.assert_allclose)),
    ):
        yield


def rows(found: dict[tuple[str, str], Difference]) -> Iterable[tuple[str, ...]]:
    """Yields the table's lines, sorted by network."""
    for (network, part), one in sorted(found.items()):
        largest = "0" if one.largest == 0 else f"{one.largest:.0e}"
        yield network, part, largest, f"{one.scale:.2g}"


def main() -> int:
    """Prints the table in Markdown; returns pytest's exit status."""
    collector = Collector()
    status = pytest.main(["-q", "-m", "parity", str(TESTS)], plugins=[collector])
    for line in (HEADER, ("---",) * len(HEADER), *rows(collector.found)):
        print(f"| {' | '.join(line)} |")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
