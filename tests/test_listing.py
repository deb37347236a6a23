"""``--list``: what a space has, and what may be set to what."""

import io
import re
from dataclasses import fields

import pytest
from rich.console import Console

import search_spaces
from models import list_models, make_options, model_options
from study.listing import LISTS, hyperparameter_settings, option_settings, print_list
from study.training.hyperparameters import Hyperparameters


def printed(space: str, what: str, *, width: int = 80) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    print_list(search_spaces.get(space), what, "paper", console)
    return file.getvalue()


@pytest.mark.parametrize("space", search_spaces.names())
@pytest.mark.parametrize("what", LISTS)
def test_every_space_is_listed_within_the_terminal(space: str, what: str) -> None:
    for width in (80, 120):
        shown = printed(space, what, width=width)
        lines = [line for line in shown.splitlines() if not re.match(r"  \S+ = ", line)]
        assert max(map(len, lines)) <= width
    names = {
        "arms": [arm.name for arm in search_spaces.get(space).arms],
        "options": ["learning_rate", "fusion_lambda", "loss_weights.NAME"],
        "parameters": [one.name for one in search_spaces.get(space).parameters],
    }
    for name in names[what]:
        assert re.search(rf"^  {re.escape(name)} ", shown, re.MULTILINE)


@pytest.mark.parametrize("model", list_models())
def test_every_option_says_what_it_is_and_what_is_allowed(model: str) -> None:
    options = make_options(model, {})
    used = [{one.name: getattr(options, one.name) for one in fields(model_options(model))}]
    for setting in option_settings(model, used):
        assert setting.meaning, setting.name
        assert setting.allowed != "anything", setting.name


def test_every_hyperparameter_says_what_it_is_and_what_is_allowed() -> None:
    used = [{one.name: getattr(Hyperparameters(), one.name) for one in fields(Hyperparameters)}]
    settings = {one.name: one for one in hyperparameter_settings(used)}
    assert all(one.meaning and one.allowed != "anything" for one in settings.values())
    allowed = {name: one.allowed for name, one in settings.items()}
    assert allowed["momentum"] == "a number of at least 0 and below 1"
    assert allowed["batch_size"] == "a whole number of at least 1"
    assert allowed["clip_norm"] == "a number above 0 or null"
    assert allowed["scales"] == "a list, each of it a number above 0 and at most 1"
    assert allowed["schedule"] == "one of 'step', 'cosine', 'constant'"
    assert allowed["flip"] == "true or false"
    assert allowed["loss_weights.NAME"] == allowed["fusion_lambda"] == "a number of at least 0"
    assert settings["epochs"].meaning == "Passes over the training videos."
    assert settings["scales"].value == "[1,0.875,0.75,0.66]"


def test_an_option_is_listed_with_the_value_of_each_of_its_arms() -> None:
    shown = printed("stilt", "options")
    assert "  options.interaction = false | true\n" in shown
    assert "  options.backbone = resnet50 | vgg19 | resnet34\n" in shown
    assert "Allowed: one of 'frames', 'cells'." in " ".join(shown.split())


def test_a_parameter_is_listed_with_its_range_its_start_and_its_arms() -> None:
    lines = printed("stilt", "parameters", width=200).splitlines()
    (rate,) = (line.split() for line in lines if line.startswith("  learning_rate"))
    assert rate == ["learning_rate", "0.0001..0.1:log", "0.001", "all"]
    (attention,) = (line for line in lines if line.startswith("  options.attention_dim"))
    assert "64, 128, 256, 512" in attention
    assert "stil-awf-simplex" in attention
    assert "two-stream" not in attention


def test_arms_that_run_only_by_name_are_marked() -> None:
    shown = printed("stilt", "arms")
    assert re.search(r"^  stilt-vgg19 \* ", shown, re.MULTILINE)
    assert re.search(r"^  stil  ", shown, re.MULTILINE)
    assert "* only where --arms names it" in shown
