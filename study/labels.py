"""Trials and trainings in a few words, for people."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from models import model_options
from study.plan import Target, Training
from study.search import Trial

__all__ = ["describe", "describe_net", "trial_label"]


def trial_label(target: Target, net: str, search_seed: int, trial: Trial) -> str:
    """A trial in a few words for the terminal."""
    values = ", ".join(f"{_short(name)} {_shown(value)}" for name, value in trial.values.items())
    search = f" search {search_seed}" if search_seed else ""
    return f"{net} split {target.split}{search} trial {trial.number + 1}: {values}"


def _short(name: str) -> str:
    """A parameter's name as a line of the terminal has room for it."""
    short = {"learning_rate": "lr"}
    head, _, rest = name.partition(".")
    return f"{rest} loss" if head == "loss_weights" else rest or short.get(name, name)


def _shown(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def describe(training: Training, among: Iterable[Training] = ()) -> str:
    """A training in a few words for the terminal: what tells it apart from those beside it."""
    what = describe_net(training, among)
    return f"{what} split {training.target.split} seed {training.seed}"


def describe_net(training: Training, among: Iterable[Training] = ()) -> str:
    """A training in a few words, without split and seed."""
    others = [other for other in among if other.model == training.model]
    usual = asdict(model_options(training.model)())
    told = []
    for name, value in training.options.items():
        varies = any(other.options[name] != value for other in others)
        if (varies and value != usual[name]) or name in ("interaction", "backbone"):
            told.append(_told(name, value))
    segments = training.hyperparameters.segments
    if any(other.hyperparameters.segments != segments for other in others):
        told.append(f"{segments} segments")
    store = training.target.store_fingerprint
    if any(other.target.store_fingerprint != store for other in others):
        told.append(f"on {training.target.dataset}")
    if training.train_on == "all" and any(other.train_on == "train" for other in others):
        told.append("on all of train")
    return f"{training.model} ({', '.join(told)})" if told else training.model


def _told(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {'+'.join(map(str, value)) or 'none' if isinstance(value, tuple) else value}"
