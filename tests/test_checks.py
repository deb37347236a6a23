"""The checks of settings: what is in bounds passes, all else is named with what is allowed."""

import math

import pytest

from study.checks import check_number, check_one_of


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
