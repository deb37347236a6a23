from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from models.checks import check_at_least, check_one_of, check_range, check_subset, check_types


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    name: str = "a"
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    weights: Mapping[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"count": -3},
        {"rate": 1},
        {"limit": 2},
        {"limit": None},
        {"sizes": ()},
        {"pair": (3, 4)},
        {"weights": {"x": 1.0}},
        {"kind": "b"},
    ],
)
def test_values_of_the_annotated_type_pass(values: dict[str, Any]) -> None:
    check_types(_Options(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"count": 1.0},
        {"count": True},
        {"rate": "1"},
        {"rate": True},
        {"flag": 1},
        {"name": None},
        {"kind": "c"},
        {"limit": "1"},
        {"sizes": [1, 2]},
        {"sizes": (1, "2")},
        {"pair": (1,)},
        {"weights": {"x": "1"}},
        {"weights": {1: 1.0}},
        {"weights": [1]},
    ],
)
def test_values_of_another_type_are_refused_with_name_and_value(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"`{name}` must be") as error:
        check_types(_Options(**values))
    assert repr(value) in str(error.value)


def test_a_literal_lists_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="`kind` must be one of 'a', 'b', but got 'c'"):
        check_types(_Options(kind="c"))  # type: ignore[arg-type]


def test_limits_are_checked_at_their_edges() -> None:
    check_at_least(_Options(count=1), "count", 1)
    check_at_least(_Options(sizes=()), "sizes", 1)
    check_range(_Options(rate=0.0), "rate", 0, 1)
    with pytest.raises(ValueError, match="`count` must be at least 1, but got 0"):
        check_at_least(_Options(count=0), "count", 1)
    with pytest.raises(ValueError, match="each of `sizes` must be at least 1"):
        check_at_least(_Options(sizes=(1, 0)), "sizes", 1)
    with pytest.raises(ValueError, match=r"`0 <= rate < 1` must hold, but got 1\.0"):
        check_range(_Options(rate=1.0), "rate", 0, 1)


def test_a_number_that_is_none_or_infinite_passes_no_limit() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`rate`"):
            check_at_least(_Options(rate=value), "rate", 0)
        with pytest.raises(ValueError, match="rate"):
            check_range(_Options(rate=value), "rate", 0, 1)


def test_choices_are_listed() -> None:
    check_one_of(_Options(), "name", ["a", "b"])
    with pytest.raises(ValueError, match="`name` must be one of 'x', 'y', but got 'a'"):
        check_one_of(_Options(), "name", ["x", "y"])
    check_subset(_Options(sizes=(2,)), "sizes", (1, 2))
    for sizes in ((), (1, 1), (1, 3)):
        with pytest.raises(ValueError, match="`sizes` must be one or more of 1, 2, none twice"):
            check_subset(_Options(sizes=sizes), "sizes", (1, 2))
