import json
from dataclasses import fields, replace
from typing import Any

import pytest

from study.training.hyperparameters import Hyperparameters


def test_equal_hyperparameters_are_equal_trainings() -> None:
    one = Hyperparameters.of(
        {"learning_rate": 1, "milestones": [0.5], "loss_weights": {"b": 1, "a": 2}}
    )
    other = Hyperparameters(learning_rate=1.0, milestones=(0.5,), loss_weights={"a": 2.0, "b": 1.0})
    assert one == other
    assert json.dumps(one.of_training()) == json.dumps(other.of_training())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"loss_weights": {"spatial": 1, "temporal": 1.0}}),
        ({"loss_weights": {"spatial": 2}}, {"loss_weights": {"spatial": 2, "temporal": 1}}),
        ({"schedule": "cosine"}, {"schedule": "cosine", "milestones": [0.3], "gamma": 0.5}),
        ({"schedule": "constant"}, {"schedule": "constant", "milestones": []}),
        ({"milestones": []}, {"milestones": [], "gamma": 0.5}),
        ({}, {"test_segments": 3, "test_clips": 2, "test_crops": "ten"}),
        ({}, {"activation_checkpointing": True}),
        ({"optimizer": "adamw"}, {"optimizer": "adamw", "momentum": 0.5}),
    ],
)
def test_hyperparameters_that_train_alike_are_the_same_training(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert Hyperparameters.of(one).of_training() == Hyperparameters.of(other).of_training()


TRAINED_BY: dict[str, Any] = {
    "learning_rate": 0.5,
    "momentum": 0.5,
    "weight_decay": 0.5,
    "rate_multipliers": "tsn",
    "batch_size": 8,
    "accumulation_steps": 2,
    "epochs": 8,
    "schedule": "constant",
    "milestones": (0.5,),
    "gamma": 0.5,
    "warmup_epochs": 1,
    "clip_norm": 1,
    "loss_weights": {"spatial": 2},
    "segments": 4,
    "frame_stride": 2,
    "flow_length": 3,
    "crop_size": 32,
    "scales": (1.0,),
    "flip": False,
    "precision": "bfloat16",
    "optimizer": "adamw",
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1,
    "class_balance": "loss",
}
SWITCHED_OFF = {
    "optimizer": "sgd",
    "rate_multipliers": "none",
    "ema_decay": None,
    "label_smoothing": 0,
    "mixup_alpha": 0,
    "cutmix_alpha": 0,
    "class_balance": "none",
}


def test_every_field_is_of_training_or_of_scoring_or_changes_no_result() -> None:
    default = Hyperparameters()
    known = TRAINED_BY.keys() | default.of_scoring() | {"activation_checkpointing"}
    assert {field.name for field in fields(default)} == known
    for name, value in TRAINED_BY.items():
        assert Hyperparameters.of({name: value}).of_training() != default.of_training(), name


def test_what_is_switched_off_is_no_part_of_a_training() -> None:
    assert Hyperparameters.of(SWITCHED_OFF) == Hyperparameters()
    assert not Hyperparameters().of_training().keys() & SWITCHED_OFF


def test_fields_left_out_take_their_defaults() -> None:
    assert Hyperparameters.of({}) == Hyperparameters()


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown hyperparameters lr; there are learning_rate, "):
        Hyperparameters.of({"lr": 0.1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"momentum": 1.0}, "momentum must be a number of at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be a number of at least 0 and below 1, got -0.1"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0"),
        ({"optimizer": "adam"}, "optimizer must be one of 'sgd', 'adamw', got 'adam'"),
        ({"ema_decay": 1.0}, "ema_decay must be a number above 0 and below 1, got 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be a number of at least 0 and below 1"),
        ({"mixup_alpha": -1}, "mixup_alpha must be a number of at least 0, got -1"),
        ({"class_balance": "both"}, "class_balance must be one of 'none', 'loss', 'sampling'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"batch_size": 2, "accumulation_steps": 3}, "accumulation_steps must be at most batch"),
        (
            {"schedule": "linear"},
            "schedule must be one of 'step', 'cosine', .* got 'linear'",
        ),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16', got 'float16'"),
        ({"milestones": (0.5, 0.5)}, "milestones must rise"),
        ({"milestones": (0.5, 1.0)}, "each of milestones must be a number above 0 and below 1"),
        ({"milestones": 0.5}, "milestones must be a list of numbers, got 0.5"),
        ({"scales": ()}, "scales must be one or more numbers"),
        ({"scales": (1.5,)}, "each of scales must be a number above 0 and at most 1"),
        ({"warmup_epochs": 31}, "warmup_epochs must be at most epochs"),
        ({"clip_norm": 0}, "clip_norm must be a number above 0, got 0"),
        ({"loss_weights": {"spatial": -1}}, r"loss_weights\['spatial'\] must be a number"),
        ({"loss_weights": [1]}, "loss_weights must be a mapping of strings to numbers"),
        ({"test_crops": "five"}, "test_crops must be one of 'centre', 'three', 'ten'"),
        ({"flip": 1}, "flip must be true or false, got 1"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Hyperparameters(), **change)
