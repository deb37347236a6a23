"""How much each searched parameter matters, by Optuna's own estimate."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from study.results.drawing import ranges_widely

__all__ = ["importances"]

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for each study made in memory


def importances(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the share of the accuracy's variance that each parameter explains alone, 0..1.

    Optuna's fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) on the complete trials, as the
    accuracies of pruned ones are of other epochs. Parameters' ranges are those that the trials
    cover, and logarithmic where they cover much (ours).

    Args:
        trials: Lines of view ``trials`` of one search, with ``parameters`` as a mapping.

    Returns:
        By parameter that all complete trials have; empty where fewer than two are complete or
        their accuracies don't differ. The shares sum to 1.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    values = [trial["validation_top1"] for trial in complete]
    if len(set(values)) < 2:
        return {}
    names = set.intersection(*(set(trial["parameters"]) for trial in complete))
    columns = {name: [trial["parameters"][name] for trial in complete] for name in sorted(names)}
    distributions = {name: _distribution(column) for name, column in columns.items()}
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        proposed = {
            name: _stored(column[number], distributions[name]) for name, column in columns.items()
        }
        study.add_trial(create_trial(params=proposed, distributions=distributions, value=value))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    if all(type(value) in (int, float) for value in values):
        return FloatDistribution(min(values), max(values), log=ranges_widely(values))
    return CategoricalDistribution(sorted({json.dumps(value) for value in values}))


def _stored(value: Any, distribution: BaseDistribution) -> Any:
    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else float(value)
