"""``--list``: a space's arms, the options that ``--set`` takes, and what is searched."""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

from models import make_options, model_options
from search_spaces.recipes import RECIPES
from search_spaces.space import ENSEMBLE, Arm, Choice, Parameter, Real, Settings, Space
from study.plan import Target, Training, make_training, settings_of
from study.training.hyperparameters import Hyperparameters

__all__ = ["LISTS", "Setting", "hyperparameter_settings", "option_settings", "print_list"]

LISTS = ("arms", "options", "parameters")
WIDE = 100  # columns of a terminal that has room for labels
BY_THE_STORE = "7/8 of the store's short side"
MADE = ("streams", "flow_length")  # options that the plan makes from what else is asked for
IMPOSSIBLE: tuple[Any, ...] = (
    *(math.nan, -(10**9), "?"),
    *((math.nan,), (-(10**9),), ("?",), object()),
)
"""Values of every kind that no setting takes: refusing them says what is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Something that ``--set`` takes.

    Attributes:
        name: Its dotted name.
        value: What it is where nothing is set; arms may differ.
        allowed: What it may be, in words.
        meaning: What it is, in a line.
    """

    name: str
    value: str
    allowed: str
    meaning: str


def print_list(space: Space, what: str, recipe: str, console: Console) -> None:
    """Prints what a space has.

    Args:
        space: The space as it is on a dataset.
        what: ``arms``, ``options`` (with the hyperparameters) or ``parameters``.
        recipe: The settings that are started from.
        console: Where to print.
    """
    base = space.settings.updated(RECIPES[recipe])
    if what == "arms":
        _print_arms(space, console)
    elif what == "parameters":
        _print_parameters(space, base, console)
    else:
        _print_options(space, base, console)


def _print_arms(space: Space, console: Console) -> None:
    means = [
        " + ".join(f"{weight:g} · {name}" for name, weight in ensemble.members.items())
        for ensemble in space.ensembles
    ]
    columns = {
        "arm": [
            *(arm.name if arm.default else f"{arm.name} *" for arm in space.arms),
            *(ensemble.name for ensemble in space.ensembles),
        ],
        "label": [one.label for one in space.rows],
        "model": [*(arm.model for arm in space.arms), *("" for _ in means)],
        "fusion": [*(arm.fusion for arm in space.arms), *(ENSEMBLE for _ in means)],
        "fixes": [*map(_fixed, space.arms), *(f"mean of {mean}" for mean in means)],
    }
    if console.width < WIDE:
        del columns["label"]
    _print_table(console, columns)
    if not all(arm.default for arm in space.arms):
        console.print("  * only where --arms names it")


def _fixed(arm: Arm) -> str:
    """The settings that make an arm what it is."""
    own = {
        **{f"options.{name}": value for name, value in arm.options.items()},
        **arm.hyperparameters,
        **{f"weights.{stream}": start for stream, start in arm.weights.items()},
        **{f"starts_from.{given}": first.name for given, first in arm.starts_from.items()},
    }
    return " ".join(f"{name}={_said(value)}" for name, value in own.items())


def _print_parameters(space: Space, base: Settings, console: Console) -> None:
    columns: dict[str, list[str]] = {
        "parameter": [one.name for one in space.parameters],
        "searched over": [_range(one) for one in space.parameters],
        "starts at": [],
        "arms": [],
    }
    for parameter in space.parameters:
        arms = [arm for arm in space.arms if parameter.matters_to(arm)]
        starts = [_value(parameter, _untuned(space, base, arm)) for arm in arms]
        names = [arm.name for arm in arms]
        columns["starts at"].append(_together(starts))
        columns["arms"].append("all" if len(arms) == len(space.arms) else ", ".join(names))
    _print_table(console, columns)
    console.print("  --search NAME=RANGE searches another as well, --set NAME=VALUE not this one")


def _print_options(space: Space, base: Settings, console: Console) -> None:
    untuned = {arm.name: _untuned(space, base, arm) for arm in space.arms}
    for model in dict.fromkeys(arm.model for arm in space.arms):
        arms = [arm for arm in space.arms if arm.model == model]
        console.print(f"\n[bold]{model}[/], of {len(arms)} arm{'s' * (len(arms) > 1)}")
        trainings = [untuned[arm.name] for arm in arms]
        _print_settings(option_settings(model, [one.options for one in trainings]), console)
    console.print("\n[bold]hyperparameters[/], of all arms")
    _print_settings(
        hyperparameter_settings([asdict(one.hyperparameters) for one in untuned.values()]), console
    )


def _print_settings(settings: Iterable[Setting], console: Console) -> None:
    for one in settings:
        console.print(f"  [bold]{one.name}[/] = {escape(one.value)}", soft_wrap=True)
        told = f"{one.meaning} Allowed: {one.allowed}.".lstrip()
        console.print(Padding(escape(told), (0, 2, 0, 6)))


def option_settings(model: str, used: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Returns the options of a model that can be set.

    Args:
        model: The model's name.
        used: Its options as they are where nothing is set, once for each arm.

    Raises:
        ValueError: If there is no such model.
    """
    meanings = _meanings(model_options(model))
    return [
        Setting(
            name=f"options.{name}",
            value=_together([one[name] for one in used]),
            allowed=_allowed(name, lambda values: make_options(model, values)),
            meaning=meanings.get(name, ""),
        )
        for name in used[0]
        if name not in MADE
    ]


def hyperparameter_settings(used: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Returns the hyperparameters.

    Args:
        used: What they are where nothing is set, once for each arm.
    """
    meanings = _meanings(Hyperparameters)
    settings = [
        Setting(
            name=name,
            value=BY_THE_STORE if name == "crop_size" else _together([one[name] for one in used]),
            allowed=_allowed(name, Hyperparameters.of),
            meaning=meanings[name],
        )
        for name in used[0]
        if name != "loss_weights"
    ]
    weights = Setting(
        name="loss_weights.NAME",
        value=_together([one["loss_weights"] or 1.0 for one in used]),
        allowed=_allowed("loss_weights", Hyperparameters.of, [{"": math.nan}]),
        meaning=meanings["loss_weights"],
    )
    own_lambda = Setting(
        name="fusion_lambda",
        value="chosen by each arm",
        allowed=_allowed("fusion_lambda", lambda values: Settings(**values), [math.nan]),
        meaning=_meanings(Settings)["fusion_lambda"],
    )
    return [*settings, weights, own_lambda]


def _untuned(space: Space, base: Settings, arm: Arm) -> Training:
    target = Target(dataset="", store_fingerprint="", split="")
    return make_training(arm.model, settings_of(arm, base, space=space), target=target, seed=0)


def _value(parameter: Parameter, training: Training) -> Any:
    """What a training that isn't tuned has of a parameter."""
    head, _, name = parameter.name.partition(".")
    if head == "options":
        return training.options[name]
    if head == "loss_weights":
        return training.hyperparameters.loss_weights.get(name, 1.0)
    return getattr(training.hyperparameters, parameter.name)


def _range(parameter: Parameter) -> str:
    if isinstance(parameter, Real):
        return f"{parameter.low:g}..{parameter.high:g}{':log' * parameter.log}"
    assert isinstance(parameter, Choice)
    return ", ".join(map(_said, parameter.choices))


def _together(values: Iterable[Any]) -> str:
    """What values come to: one, or several joined where arms differ."""
    return " | ".join(dict.fromkeys(map(_said, values)))


def _said(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"[{','.join(map(_item, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _item(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else _said(value)


def _meanings(kind: type) -> dict[str, str]:
    """What each attribute of a class is: the first sentence that its docstring says of it."""
    found = {}
    for one in reversed(kind.__mro__):
        _, _, said = inspect.cleandoc(one.__doc__ or "").partition("\nAttributes:\n")
        said = re.split(r"\n\S", said)[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", said, re.MULTILINE):
            sentence = re.split(r"(?<=\.)\s", " ".join(text.split()))[0]
            found[name] = sentence.replace("``", "")
    return found


def _allowed(
    name: str,
    make: Callable[[Mapping[str, Any]], Any],
    refused: Iterable[Any] = IMPOSSIBLE,
) -> str:
    """What a setting may be, in the words in which its own check refuses what it may not."""
    found = ["anything"]
    for value in refused:
        try:
            make({name: value})
        except ValueError as error:
            what = rf"(each of )?{name}(?:\[.*?\])? must be (.*?), got "
            if match := re.search(what, str(error)):
                found.append(f"{'a list, each of it ' if match[1] else ''}{match[2]}")
    told = max(found, key=len)  # the check of its range says more than that of its type
    may_be_none = any(one.endswith(" or none") for one in found)
    return f"{told.removesuffix(' or none')} or null" if may_be_none else told


def _print_table(console: Console, columns: Mapping[str, Sequence[str]]) -> None:
    first, *others = columns
    table = Table(Column(first, no_wrap=True), *others, box=box.SIMPLE)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, row))
    console.print(table)
