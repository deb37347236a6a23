import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from models.checks import (
    check_count,
    check_fields,
    check_names,
    check_number,
    check_one_of,
    check_subset,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settings:
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    name: str = "a"
    kind: Literal["a", "b"] = "a"
    towers: Literal[1, 2] = 1
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, int] = (1, 2)
    levels: tuple[str, ...] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", -3),
        ("rate", 0.25),
        ("limit", 2.5),
        ("limit", None),
        ("kind", "b"),
        ("sizes", ()),
        ("pair", (3, 4)),
        ("levels", ("x",)),
        ("weights", {"x": 1.0}),
    ],
)
def test_values_of_the_annotated_type_stay_as_they_are(name: str, value: Any) -> None:
    assert getattr(_Settings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", 1, 1.0),
        ("limit", 2, 2.0),
        ("sizes", [3, 4], (3, 4)),
        ("levels", ["x", "y"], ("x", "y")),
        ("weights", {"x": 1}, {"x": 1.0}),
    ],
)
def test_values_are_brought_to_one_form(name: str, value: Any, expected: Any) -> None:
    # repr tells 1 from 1.0, which are equal.
    assert repr(getattr(_Settings(**{name: value}), name)) == repr(expected)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("count", 1.0, "a whole number"),
        ("count", True, "a whole number"),
        ("rate", "1", "a number"),
        ("rate", True, "a number"),
        ("flag", 1, "true or false"),
        ("name", None, "a string"),
        ("kind", "c", "one of 'a', 'b'"),
        ("towers", True, "one of 1, 2"),
        ("limit", "1", "a number or none"),
        ("sizes", (1, "2"), "a list of whole numbers"),
        ("sizes", 1, "a list of whole numbers"),
        ("pair", (1,), "a list of 2 whole numbers"),
        ("levels", "x", "a list of strings or none"),
        ("weights", {"x": "1"}, "a mapping of strings to numbers"),
        ("weights", {1: 1.0}, "a mapping of strings to numbers"),
        ("weights", [1], "a mapping of strings to numbers"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        _Settings(**{name: value})
    assert str(error.value) == f"{name} must be {kind}, got {value!r}"


def test_limits_are_checked_at_their_edges() -> None:
    check_count("count", 1)
    check_count("sizes", ())
    check_count("quality", 100, least=1, most=100)
    check_number("rate", 0.0, least=0, below=1)
    for check, message in (
        (lambda: check_count("count", 0), "count must be a whole number of at least 1, got 0"),
        (
            lambda: check_count("quality", 101, most=100),
            "quality must be a whole number of at least 1 and at most 100, got 101",
        ),
        (
            lambda: check_count("sizes", (1, 0)),
            r"each of sizes must be a whole number of at least 1, got \(1, 0\)",
        ),
        (
            lambda: check_number("rate", 1.0, least=0, below=1),
            r"rate must be a number of at least 0 and below 1, got 1\.0",
        ),
        (
            lambda: check_number("rate", 0.0, above=0),
            r"rate must be a number above 0, got 0\.0",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
def test_what_is_no_finite_number_passes_no_limit(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate must be a number of at least 0, got "):
        check_number("rate", value, least=0)


def test_a_fraction_is_no_count() -> None:
    with pytest.raises(ValueError, match=r"a whole number of at least 1, got 2\.0"):
        check_count("count", 2.0)


def test_choices_are_listed() -> None:
    check_one_of("name", "a", ["a", "b"])
    with pytest.raises(ValueError, match="name must be one of 'x', 'y', got 'a'"):
        check_one_of("name", "a", ["x", "y"])
    check_subset("sizes", (2,), (1, 2))
    for sizes in ((), (1, 1), (1, 3)):
        with pytest.raises(ValueError, match="sizes must be one or more of 1, 2, none twice"):
            check_subset("sizes", sizes, (1, 2))


def test_unknown_names_are_answered_with_those_there_are() -> None:
    check_names("options", ["b"], ["a", "b"])
    with pytest.raises(ValueError, match=r"^unknown options c, d; there are a, b$"):
        check_names("options", ["c", "a", "d"], ["a", "b"])


@pytest.mark.parametrize("value", [1, 2.5, 4, -0.0])
def test_numbers_within_bounds_pass(value: float) -> None:
    check_number("x", value, least=0, most=4)
    check_number("x", value, above=-1, below=5)
    check_number("x", value)


@pytest.mark.parametrize(
    "value", [True, None, "1", math.nan, math.inf, -math.inf, 1j, [1]], ids=repr
)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^x must be a number, got "):
        check_number("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, {"least": 1}, "x must be a number of at least 1, got 0"),
        (1, {"above": 0, "below": 1}, "x must be a number above 0 and below 1, got 1"),
        (0.0, {"above": 0}, "x must be a number above 0, got 0.0"),
        (2.0, {"whole": True}, "x must be a whole number, got 2.0"),
        (5, {"whole": True, "least": 1, "most": 4}, "at least 1 and at most 4, got 5"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_them(
    value: float, bounds: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_number("x", value, **bounds)  # type: ignore[arg-type]


def test_one_of_a_few_is_asked_for() -> None:
    check_one_of("x", 3, (1, 3))
    with pytest.raises(ValueError, match="x must be one of 1, 3, got 2"):
        check_one_of("x", 2, (1, 3))
