"""Networks that differ only in options said to be without effect are equal."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import combinations, product
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from models import (
    create_model,
    list_models,
    make_options,
    model_options,
    options_without_effect,
)
from tests.models.test_every_model import CONFIGURATIONS, _assert_same, _clips

CLASSES = 5
STREAMS = (("spatial",), ("temporal",), ("spatial", "temporal"))
MODELS = [name for name in list_models() if hasattr(model_options(name), "without_effect")]


def choices(name: str, field: str) -> tuple[Any, ...]:
    """Values of an option that decides over others."""
    kind = get_type_hints(model_options(name))[field]
    if field == "streams":
        return STREAMS
    if field == "levels":
        return ((), None)
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()


def other_value(name: str, field: str, value: Any) -> Any:
    if several := [one for one in choices(name, field) if one != value]:
        return several[0]
    if isinstance(value, tuple):
        return (*value, 7)
    return value / 2 if isinstance(value, float) else value + 1


def variants(name: str) -> Iterator[dict[str, Any]]:
    """The configuration's options with up to two of its choices made otherwise."""
    options = asdict(make_options(name, CONFIGURATIONS[name].options))
    decided = [field.name for field in fields(model_options(name)) if choices(name, field.name)]
    for count in range(3):
        for changed in combinations(decided, count):
            for values in product(*(choices(name, field) for field in changed)):
                yield options | dict(zip(changed, values, strict=True))


def builds(name: str, options: dict[str, Any]) -> bool:
    try:
        with torch.device("meta"):
            create_model(name, num_classes=CLASSES, **options)
    except ValueError:
        return False
    return True


def cases() -> Iterator[Any]:
    """For each option without effect some variant of the options in which it has none."""
    for name in MODELS:
        seen: set[frozenset[str]] = set()
        for options in variants(name):
            try:
                unused = options_without_effect(name, options)
            except ValueError:
                continue
            if not unused or unused in seen or not builds(name, options):
                continue
            seen.add(unused)
            yield pytest.param(name, options, id=f"{name}-{'-'.join(sorted(unused))}")


def network(name: str, options: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, **options).eval()


def test_some_options_of_some_models_have_no_effect() -> None:
    assert {"stilt", "stin", "conv_fusion", "cstm", "attention_consistency"} <= set(MODELS)


@pytest.mark.parametrize(("name", "options"), list(cases()))
def test_networks_that_differ_in_options_without_effect_are_equal(
    name: str, options: dict[str, Any]
) -> None:
    first = network(name, options)
    clips = _clips(name, first)
    for field in options_without_effect(name, options):
        changed = options | {field: other_value(name, field, options[field])}
        if not builds(name, changed):
            continue  # refused beside the others
        second = network(name, changed)
        ours, theirs = first.state_dict(), second.state_dict()
        assert ours.keys() == theirs.keys(), field
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), field
        with torch.no_grad():
            _assert_same(first(**clips), second(**clips), rtol=0, atol=0)
