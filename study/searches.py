"""A study's agenda: which searches it makes, what their trials train, and whom they serve."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution

from models.fusion import FUSIONS
from search_spaces.space import Arm, Choice, Parameter, Real, Settings
from study.agenda import Agenda, ArmSearch, Found
from study.estimate import epoch_passes, gflops_of
from study.ledger import Objective
from study.plan import (
    Plan,
    PlannedRow,
    Target,
    Training,
    net_key,
    streams_apart,
    streams_read,
)
from study.provenance import canonical_json
from study.request import Study, Variant, fitting_arms
from study.search import Search, default_rungs, distributions
from study.stages import start_reports

__all__ = [
    "Net",
    "SearchKey",
    "agenda_of",
    "most_trainings",
    "objective_of",
    "parts_of",
    "searched_nets",
    "searches_of",
]

SearchKey = tuple[Target, str, int]
"""What a search is of: dataset, split and carve, the name of the net, and the search's seed."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """Arms that share a search.

    Attributes:
        name: The name of the arm that stands for it: the first that reads all the streams that the
            trained arms read, or else the first of them.
        arms: The arms of the study that train with what the search finds.
        trained: The arms that its trials' trainings serve: all of the space's that are of the net,
            or the one whose search is for all arms.
        fusion: The fusion whose validation top-1 the search maximises.
        parameters: What is searched: what matters to any of the trained arms.
    """

    name: str
    arms: tuple[Arm, ...]
    trained: tuple[Arm, ...]
    fusion: str
    parameters: tuple[Parameter, ...]


def searched_nets(study: Study) -> tuple[Net, ...]:
    """Returns the nets that get a search of their own, in the order of their first arms.

    Arms are of one net if they differ in fusion and the choice of streams alone, whatever a search
    finds. A net's search is the same whichever of the space's arms are asked for, so that an arm's
    row is too. A net of whose settings none is searched is left out.
    """
    if study.tuning == "fixed" or study.trials == 0:
        return ()
    if study.tuning == "shared":
        arm = study.space.arm(study.space.search_arm)
        parameters = study.space.parameters_for(arm)
        net = Net(
            name=arm.name,
            arms=study.arms,
            trained=(arm,),
            fusion=arm.fusion,
            parameters=parameters,
        )
        return (net,) if parameters else ()
    every: dict[str, list[Arm]] = {}
    for arm in study.space.arms:
        names = [parameter.name for parameter in study.space.parameters_for(arm)]
        # The settings may be none of an arm's that isn't asked for.
        with nullcontext() if arm in study.arms else suppress(ValueError):
            if names:
                key = canonical_json([net_key(arm.model, study.settings(arm, None)), names])
                every.setdefault(key, []).append(arm)
    nets = [_net(study, arms) for arms in every.values()]
    return tuple(sorted((net for net in nets if net.arms), key=lambda net: _first(study, net)))


def _net(study: Study, arms: Sequence[Arm]) -> Net:
    read = {arm.name: set(streams_read(arm, study.settings(arm, None))) for arm in arms}
    every = set().union(*read.values())
    return Net(
        name=next((arm.name for arm in arms if read[arm.name] == every), arms[0].name),
        arms=tuple(arm for arm in study.arms if arm in arms),
        trained=tuple(arms),
        fusion=_late_average(every),
        parameters=study.space.parameters_for(arms[0]),
    )


def _first(study: Study, net: Net) -> int:
    return study.arms.index(net.arms[0])


def _late_average(streams: set[str]) -> str:
    """Returns the fusion that averages streams: of one alone, the one that reads it."""
    for name, fusion in FUSIONS.items():
        if {fusion.stream} == streams:
            return name
    return "average"


def searches_of(study: Study) -> dict[SearchKey, ArmSearch]:
    """Returns a search for each searched net and split; it sees that split's train part only.

    Raises:
        ValueError: If a parameter or a value of ``--search`` makes no training of the searched
            nets, a searched option makes a network that can't start from what it is to start
            from, or the study to begin with has no trial that these searches could have proposed.
    """
    nets = searched_nets(study)
    for parameter in study.request.parameters:
        _check_searched(study, nets, parameter)
    for net in nets:
        if study.trial(net.trained, study.targets[0], {}).starts:
            _check_starts(study, net)
    keys = {(variant.search_target, variant.search_seed): None for variant in study.variants}
    return {
        (target, net.name, seed): _search(study, net, target, seed)
        for target, seed in keys
        for net in nets
    }


def agenda_of(study: Study, searches: Mapping[SearchKey, ArmSearch]) -> Agenda:
    """All that a study has to do: its searches, then the rows at what they found."""
    costs: dict[str, float] = {}

    def cost(training: Training) -> float:
        identity = training.training_id
        if identity not in costs:
            passes = epoch_passes(training, study.parts_of(training))
            costs[identity] = passes * gflops_of(training) / training.hyperparameters.segments
        return costs[identity]

    return Agenda(
        searches=tuple(searches.values()),
        plan=partial(_plan, study, {key: one.search.name for key, one in searches.items()}),
        parts=parts_of,
        cost=cost,
    )


def objective_of(study: Study, key: SearchKey) -> Objective:
    """What a search maximises, and by what its arms choose."""
    target, name, _ = key
    net = next(one for one in searched_nets(study) if one.name == name)
    return Objective(
        fusion=net.fusion,
        groups={
            video.name: video.group for video in study.store.annotations.splits[target.split].videos
        },
        arms={arm.name: arm.fusion for arm in net.arms} if study.tuning == "own" else {},
        fusion_lambda=study.base.fusion_lambda,
    )


def parts_of(row: PlannedRow, training: Training) -> tuple[str, ...]:
    """The parts whose scores, or features, a row is made of, of one of its trainings."""
    parts: tuple[str, ...] = ("validation", "test")
    if training.train_on == "all":
        parts = ("test",)
    elif row.fitted_on:
        parts = ("validation",)
    return ("train", *parts) if FUSIONS[row.arm.fusion].reads_train else parts


def most_trainings(study: Study) -> int:
    """Returns how many trainings the reported seeds take if all arms choose different trials."""
    if study.tuning != "own":
        return len(study.plan().trainings)
    nets = searched_nets(study)
    untuned = study.plan(arms=_untuned(study, nets)).trainings
    whole = study.plan()
    rows = {one.training_id for row in whole.rows for one in row.distinct_trainings}
    of_nets = sum(_most_of_net(study, net, net.arms) for net in nets)
    if study.request.refit:
        of_nets += sum(_most_of_net(study, net, fitting_arms(net.arms)) for net in nets)
    # What trainings start from is none of what a search finds.
    first = whole.trainings.keys() - rows
    return len(untuned.keys() | first) + of_nets * len(study.targets) * study.request.seeds


def _most_of_net(study: Study, net: Net, arms: Sequence[Arm]) -> int:
    apart = streams_apart(study.trial(net.trained, study.targets[0], {}))
    choosing = Counter(
        stream
        for arm in arms
        for stream in (streams_read(arm, study.settings(arm, None)) if apart else ["all of them"])
    )
    return min(study.trials, choosing.total())  # streams at one trial's settings train together


def _untuned(study: Study, nets: Sequence[Net]) -> list[Arm]:
    searched = {arm.name for net in nets for arm in net.arms}
    return [arm for arm in study.arms if arm.name not in searched]


def _search(study: Study, net: Net, target: Target, seed: int) -> ArmSearch:
    request = study.request
    start = study.trial(net.trained, target, {}, search_seed=seed)
    prior = _prior_trials(study, net, target)
    asked = canonical_json(
        [
            start.training_id,
            net.name,
            net.fusion,
            [repr(one) for one in net.parameters],
            prior,
            request.sampler,
            request.lag,
        ]
    )
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    return ArmSearch(
        search=Search(
            name=f"{target.dataset}-{target.split}/{net.name}/{digest}",
            parameters=net.parameters,
            first=_first_values(net.parameters, start),
            trials=study.trials,
            rungs=default_rungs(start.hyperparameters.epochs),
            sampler=request.sampler,
            lag=request.lag,
            seed=seed,
            prior=prior,
        ),
        make_training=partial(study.trial, net.trained, target, search_seed=seed),
        arms=tuple(arm.name for arm in net.arms),
        target=f"{target.dataset} split {target.split}",
        label=f"{net.name} on {target.dataset} split {target.split}"
        + (f" search {seed}" if seed else ""),
        own_choices=study.tuning == "own",
    )


def _check_starts(study: Study, net: Net) -> None:
    """Checks that a net starts from other trainings whichever option is proposed."""
    for parameter in net.parameters:
        if parameter.name.startswith("options.") and isinstance(parameter, Choice):
            for value in parameter.choices:
                found = {parameter.name: parameter.to_optuna(value)}
                try:
                    start_reports([study.trial(net.trained, study.targets[0], found)])
                except ValueError as error:
                    raise ValueError(
                        f"{parameter.name} is searched, but with {value} {error}; give one value "
                        f"with --set {parameter.name}=…"
                    ) from None


def _check_searched(study: Study, nets: Sequence[Net], parameter: Parameter) -> None:
    """Checks that each searched net to which a parameter matters can be trained with its values."""
    nets = [net for net in nets if parameter in net.parameters]
    if not nets:
        among = ", ".join(net.name for net in searched_nets(study))
        raise ValueError(
            f"--search {parameter.name} makes no difference to "
            + (f"what is searched with ({among})" if among else "a study that searches nothing")
        )
    if parameter.name == "epochs":
        raise ValueError("--search epochs: trials are judged at the same epochs; give --epochs")
    values = parameter.choices if isinstance(parameter, Choice) else ()
    if isinstance(parameter, Real):
        values = (float(parameter.low), float(parameter.high))
    for net in nets:
        for value in values:
            found = {parameter.name: parameter.to_optuna(value)}
            try:
                study.trial(net.trained, study.targets[0], found)
            except ValueError as error:
                raise ValueError(f"--search {parameter.name}: {error}") from None


def _prior_trials(
    study: Study, net: Net, target: Target
) -> tuple[tuple[Mapping[str, Any], float], ...]:
    """The complete trials of the study to begin with, of this net, dataset and split.

    Another split's would tell of this one's test videos.

    Raises:
        ValueError: If there are none that this search could have proposed.
    """
    older = study.request.warm_start
    if older is None:
        return ()
    known = distributions(net.parameters)
    trials = [
        (json.loads(line["parameters"]), line["validation_top1"])
        for line in study.warm_trials
        if (line["arm"], line["split"]) == (net.name, target.split)
    ]
    usable = tuple(
        ({name: values[name] for name in known}, value)
        for values, value in trials
        if all(name in values and _holds(known[name], values[name]) for name in known)
    )
    if not usable:
        raise ValueError(
            f"--warm-start {older}: of its {len(trials)} complete trials of {net.name} on "
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
    study: Study, searches: Mapping[SearchKey, str], found: Mapping[str, Found | None]
) -> Plan:
    """The plan of the arms that are searched with nothing and of those whose searches are done."""
    nets = searched_nets(study)
    plans = [study.plan(arms=_untuned(study, nets))]
    for variant in study.variants:
        for net in nets:
            search = searches[variant.search_target, net.name, variant.search_seed]
            best = found.get(search)
            if best is not None:
                plans.append(_plan_of_net(study, net, variant, best))
    return Plan.joined(plans)


def _plan_of_net(study: Study, net: Net, variant: Variant, found: Found) -> Plan:
    """The plan of a net's arms, with a note in each row of the trials that gave its settings."""

    def settings(arm: Arm, target: Target) -> Settings | Mapping[str, Settings]:
        if arm.name not in found.choices:
            return study.settings(arm, found.values)
        chosen = found.choices[arm.name].trials
        return {
            stream: study.settings(arm, found.trials[number].values)
            for stream, number in chosen.items()
        }

    def noted(row: PlannedRow) -> PlannedRow:
        if (chosen := found.choices.get(row.arm.name)) is None:
            return replace(row, tuned_by=net.name, tuned={"trial": found.trial.number})
        return replace(
            row,
            tuned_by=net.name,
            tuned={
                "trial": chosen.trials,
                "candidates": chosen.candidates,
                "choice_validation_top1": chosen.top1,
            },
        )

    plan = study.plan(settings, arms=net.arms, variants=(variant,))
    return replace(plan, rows=tuple(map(noted, plan.rows)))
