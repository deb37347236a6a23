"""A study's agenda: which searches it makes, what their trials train, and whom they serve."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution

from models.fusion import FUSIONS
from search_spaces.space import Arm, Choice, Parameter, Real
from study.agenda import Agenda, ArmSearch, Found
from study.ledger import Objective
from study.plan import Plan, PlannedRow, Target, Training
from study.provenance import canonical_json
from study.request import Study
from study.results.protocols import newest_protocols
from study.results.store import ResultStore
from study.search import Search, default_rungs, distributions

__all__ = ["SearchKey", "agenda_of", "objective_of", "parts_of", "searched_arms", "searches_of"]

SearchKey = tuple[Target, str]
"""What a search is of: dataset and split, and the name of the arm whose accuracy it maximises."""


def searches_of(study: Study) -> dict[SearchKey, ArmSearch]:
    """Returns a search for each searched arm and split; it sees that split's train part only.

    Raises:
        ValueError: If a parameter or a value of ``--search`` makes no training of the searched
            arms, or the study to begin with has no trial that these searches could have proposed.
    """
    for parameter in study.request.parameters:
        _check_searched(study, parameter)
    return {
        (target, arm.name): _search(study, arm, target)
        for target in study.targets
        for arm in searched_arms(study)
    }


def agenda_of(study: Study, searches: Mapping[SearchKey, ArmSearch]) -> Agenda:
    """All that a study has to do: its searches, then the rows at what they found."""
    return Agenda(
        searches=tuple(searches.values()),
        plan=partial(_plan, study, {key: one.search.name for key, one in searches.items()}),
        parts=parts_of,
    )


def searched_arms(study: Study) -> tuple[Arm, ...]:
    """The arms that get a search of their own."""
    if study.tuning == "fixed" or study.trials == 0:
        return ()
    if study.tuning == "own":
        return study.arms
    return (study.space.arm(study.space.search_arm),)


def objective_of(study: Study, key: SearchKey) -> Objective:
    """What a search maximises."""
    target, arm = key
    return Objective(
        fusion=study.space.arm(arm).fusion,
        groups={video.name: video.group for video in study.parts[target.split].validation},
    )


def parts_of(row: PlannedRow) -> tuple[str, ...]:
    """The parts whose scores, or features, a row is made of."""
    parts = ("validation", "test") if row.training.train_on == "train" else ("test",)
    return ("train", *parts) if FUSIONS[row.arm.fusion].reads_features else parts


def _search(study: Study, arm: Arm, target: Target) -> ArmSearch:
    request = study.request
    start = study.trial(arm, target, {})
    parameters = study.space.parameters_for(arm)
    prior = _prior_trials(study, arm, target, parameters)
    asked = canonical_json(
        [
            start.training_id,
            arm.name,
            arm.fusion,
            [repr(one) for one in parameters],
            prior,
            request.sampler,
            request.lag,
        ]
    )
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    serves = study.arms if study.tuning == "shared" else (arm,)
    return ArmSearch(
        search=Search(
            name=f"{target.dataset}-{target.split}/{arm.name}/{digest}",
            parameters=parameters,
            first=_first_values(parameters, start),
            trials=study.trials,
            rungs=default_rungs(start.hyperparameters.epochs),
            sampler=request.sampler,
            lag=request.lag,
            prior=prior,
        ),
        make_training=partial(study.trial, arm, target),
        arms=tuple(one.name for one in serves),
        target=f"{target.dataset} split {target.split}",
        reading_key=reading_key,
    )


def _check_searched(study: Study, parameter: Parameter) -> None:
    """Checks that each searched arm to which a parameter matters can be trained with its values."""
    arms = [arm for arm in searched_arms(study) if parameter.matters_to(arm)]
    if not arms:
        among = ", ".join(arm.name for arm in searched_arms(study))
        raise ValueError(
            f"--search {parameter.name} makes no difference to "
            + (f"what is searched with ({among})" if among else "a study that searches nothing")
        )
    if parameter.name == "epochs":
        raise ValueError("--search epochs: trials are judged at the same epochs; give --epochs")
    values = parameter.choices if isinstance(parameter, Choice) else ()
    if isinstance(parameter, Real):
        values = (float(parameter.low), float(parameter.high))
    for arm in arms:
        for value in values:
            try:
                study.trial(arm, study.targets[0], {parameter.name: parameter.to_optuna(value)})
            except ValueError as error:
                raise ValueError(f"--search {parameter.name}: {error}") from None


def reading_key(training_id: str, values: Mapping[str, Any]) -> str:
    """The key of what a training is worth to a search: λ changes it, but not the training."""
    return f"{training_id} {values.get('fusion_lambda')}"


def _prior_trials(
    study: Study, arm: Arm, target: Target, parameters: tuple[Parameter, ...]
) -> tuple[tuple[Mapping[str, Any], float], ...]:
    """The complete trials of the study to begin with, of this arm, dataset and split.

    They are those under the protocol that it was last started under. Another split's would tell of
    this one's test videos.

    Raises:
        ValueError: If there are none that this search could have proposed.
    """
    older = study.request.warm_start
    if older is None:
        return ()
    known = distributions(parameters)
    results = ResultStore(study.request.results)
    lines = results.read(
        "trials",
        study=older,
        protocol=newest_protocols(results, older).get(target.dataset, ""),
        arm=arm.name,
        dataset=target.dataset,
        split=target.split,
        state="complete",
    )
    trials = [
        (json.loads(line["parameters"]), line["validation_top1"])
        for line in lines.sort_by("trial").to_pylist()
    ]
    usable = tuple(
        ({name: values[name] for name in known}, value)
        for values, value in trials
        if all(name in values and _holds(known[name], values[name]) for name in known)
    )
    if not usable:
        raise ValueError(
            f"--warm-start {older}: of its {len(trials)} complete trials of {arm.name} on "
            f"{target.dataset} split {target.split} none has values for all of "
            f"{', '.join(known)} within this search's ranges"
        )
    return usable


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def _first_values(parameters: tuple[Parameter, ...], start: Training) -> dict[str, Any]:
    """What the untuned training uses, where the parameters allow it: no search does worse."""
    known = {
        **{f"options.{name}": value for name, value in start.options.items()},
        **{
            field.name: getattr(start.hyperparameters, field.name)
            for field in fields(start.hyperparameters)
        },
        "fusion_lambda": 1.0,
    }
    first = {}
    for parameter in parameters:
        if parameter.name.startswith("loss_weights."):
            name = parameter.name.removeprefix("loss_weights.")
            known[parameter.name] = start.hyperparameters.loss_weights.get(name, 1.0)
        if parameter.name in known and parameter.allows(known[parameter.name]):
            first[parameter.name] = parameter.to_optuna(known[parameter.name])
    return first


def _plan(
    study: Study, searches: Mapping[tuple[Target, str], str], found: Mapping[str, Found | None]
) -> Plan:
    """The plan of the arms whose searches are done.

    An arm waits for the searches of all arms that one training could serve together with it, or
    which training serves it would depend on the order in which searches end.
    """
    shared = study.space.search_arm
    plans = []
    for target in study.targets:
        of_arm = {
            arm.name: searches.get((target, arm.name), searches.get((target, shared)))
            for arm in study.arms
        }
        done = {name for name, one in of_arm.items() if one is None or one in found}
        ready = [
            arm
            for arm in study.arms
            if all(other.name in done for other in study.arms if _may_share(arm, other))
            and found.get(of_arm[arm.name] or "", ...) is not None
        ]

        plans.append(study.plan(partial(_values, of_arm, found), arms=ready, targets=(target,)))
    return Plan(
        rows=tuple(row for plan in plans for row in plan.rows),
        trainings={key: one for plan in plans for key, one in plan.trainings.items()},
        features_of=frozenset().union(*(plan.features_of for plan in plans)),
    )


def _values(
    of_arm: Mapping[str, str | None], found: Mapping[str, Found | None], arm: Arm, target: Target
) -> Mapping[str, Any]:
    best = found.get(of_arm[arm.name] or "")
    return {} if best is None else best.values


def _may_share(arm: Arm, other: Arm) -> bool:
    """Whether one training could serve both arms, whatever their searches find."""
    return arm.model == other.model and all(
        theirs[name] == value
        for own, theirs in (
            (arm.options, other.options),
            (arm.hyperparameters, other.hyperparameters),
        )
        for name, value in own.items()
        if name in theirs
    )
