"""What a study would do, and about how long that takes."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table

from models.fusion import FUSIONS
from search_spaces.space import Arm
from study.calibration import device_of, earlier_paces, measure_pace
from study.cluster.resources import trainings_at_once
from study.durations import told_span
from study.estimate import Estimate, Paces, epoch_passes, estimate_study, key_of
from study.labels import describe_net
from study.ledger import Ledger, look
from study.plan import Plan, Training, with_stages
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.searches import agenda_of, most_trainings, objective_of, searches_of
from study.stages import told_starts
from study.terminal import Terminal

__all__ = ["print_dry_run"]

PHASES = {"search": "search", "trainings": "reported trainings", "scoring": "scoring"}
SEARCHED, CHECKPOINTED, ALL = "*", "†", "‡"
MARKS = {
    SEARCHED: "where its search starts; the rows' trainings have what is found",
    CHECKPOINTED: "computes activations again in the backward pass, to fit the GPU",
    ALL: "on all of train",
}
DROPPED = ("precision", "crop", "epochs", "runs", "arms", "batch", "micro", "rate", "steps")
"""Columns that a narrow terminal may lack, in this order, where all lines have one value."""
GAP = 2  # columns between two of a table
SOURCES = {
    "earlier": "earlier trainings on {device}",
    "measured": "a few steps, just now, on {device}",
    "GFLOPs": "the GFLOPs of others on {device}",
}


def print_dry_run(study: Study, console: Console, *, address: str | None) -> None:
    """Prints the trainings that a study plans, what each needs, and how long all of it takes.

    Args:
        study: The study.
        console: Where to print.
        address: The address of the Ray cluster that it is to run on; None for this machine.
    """
    plan = study.plan()
    paces, device = _paces(study, plan, console)
    _print_trainings(study, plan, paces, console)
    searches = searches_of(study)
    agenda = agenda_of(study, searches)
    objectives = {one.search.name: objective_of(study, key) for key, one in searches.items()}
    at_once = _at_once(study, address)
    results = ResultStore(study.request.results)
    ledger = Ledger(results, objectives, checkpoints=study.checkpoints)
    expected = estimate_study(
        study,
        agenda,
        look(agenda, ledger),
        paces,
        untuned=plan,
        at_once=at_once or 1,
    )
    _print_estimate(study, expected, at_once, console)
    _print_sources(plan, paces, device, console)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Net:
    """Trainings that differ in split and seed alone, and the arms whose rows they are for."""

    trainings: Sequence[Training]
    arms: Sequence[Arm]

    @property
    def first(self) -> Training:
        """One of them."""
        return self.trainings[0]

    @property
    def name(self) -> str:
        """The name of the first arm whose fusion reads all that they give."""
        whole = [arm for arm in self.arms if FUSIONS[arm.fusion].stream is None]
        return (whole or self.arms)[0].name


def _nets(plan: Plan) -> list[_Net]:
    alike: dict[str, dict[str, Training]] = {}
    arms: dict[str, dict[str, Arm]] = {}
    for row in plan.rows:
        for one in with_stages(row.distinct_trainings).values():
            settings = one.hyperparameters.of_training()
            starts = [told_starts(one), one.target.store_fingerprint]
            net = canonical_json([one.model, one.options, settings, one.train_on, starts])
            alike.setdefault(net, {})[one.training_id] = one
            arms.setdefault(net, {})[row.arm.name] = row.arm
    return [
        _Net(trainings=tuple(trainings.values()), arms=tuple(arms[net].values()))
        for net, trainings in alike.items()
    ]


def _paces(study: Study, plan: Plan, console: Console) -> tuple[Paces, str | None]:
    """What is known of the speed of a plan's networks; what isn't is measured, smallest first."""
    results = ResultStore(study.request.results)
    paces, device = earlier_paces(results, device_of(study))
    nets = {key_of(training): training for training in plan.trainings.values()}
    for training in nets.values():
        known = paces.of(training)
        if known is None or known.source == "GFLOPs":
            with console.status(f"measuring {training.model}"):
                seconds = measure_pace(study, training)
            if seconds is not None:
                paces.add(training, seconds=seconds, source="measured")
    return paces, device


def _at_once(study: Study, address: str | None) -> int | None:
    """Trainings that run at once; None where that is the cluster's to say."""
    request = study.request
    if request.at_once is not None or address is not None:
        return request.at_once
    here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    return trainings_at_once(request.resources, [here]) or None


def _print_trainings(study: Study, plan: Plan, paces: Paces, console: Console) -> None:
    """Prints a line for each network: what a training of it is, takes, and serves."""
    nets = _nets(plan)
    columns = _columns(study, nets, paces)
    shown, alike = _fitted(columns, console.width)
    first, *others = shown
    table = Table(
        Column(first, no_wrap=True),
        *(Column(name, no_wrap=True, justify="right") for name in others),
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    console.print(table)
    say = Terminal(console)
    if alike:
        say.say(f"all alike: {', '.join(f'{name} {value}' for name, value in alike.items())}")
    notes = "".join(cell for cells in columns.values() for cell in cells)
    for mark, note in MARKS.items():
        if mark in notes:
            say.say(f"{mark} {note}")
    for net in nets:
        what = describe_net(net.first, plan.trainings.values())
        if len(net.arms) > 1:
            say.say(f"one training of {what} serves {', '.join(arm.name for arm in net.arms)}")
    for names in _same_results(plan):
        say.say(f"{' and '.join(names)} are the same training, fused alike: one result")


def _same_results(plan: Plan) -> list[list[str]]:
    """The names of arms whose rows are made of the same trainings in the same way."""
    alike: dict[str, dict[str, None]] = {}
    for row in plan.rows:
        read = [{s: one.training_id for s, one in row.trainings.items()}, row.arm.fusion]
        made = canonical_json([*read, row.fusion_lambda, row.training.scoring_id])
        alike.setdefault(made, {})[row.arm.name] = None
    every = [list(names) for names in alike.values() if len(names) > 1]
    return [names for number, names in enumerate(every) if names not in every[:number]]


def _columns(study: Study, nets: Sequence[_Net], paces: Paces) -> dict[str, list[str]]:
    """What each network's trainings are and take, by the column's name."""
    both = len({net.first.train_on for net in nets}) > 1
    rows = []
    for net in nets:
        hyperparameters, division = net.first.hyperparameters, study.division(net.first)
        passes, memory = hyperparameters.accumulation_steps, {}
        if division is not None:
            passes = division.accumulation_steps
            again = CHECKPOINTED if division.activation_checkpointing else ""
            memory = {"GiB": f"{division.needed_bytes / 2**30:.1f}{again}"}
        share = math.ceil(hyperparameters.batch_size / study.request.resources.workers)
        searched = any(
            parameter.name == "learning_rate" and parameter.matters_to(arm)
            for arm in net.arms
            for parameter in study.space.parameters
        )
        rate = SEARCHED if searched and study.tuning != "fixed" and study.trials else ""
        rows.append(
            {
                "training": f"{net.name}{ALL if both and net.first.train_on == 'all' else ''}",
                "arms": f"{len(net.arms)}",
                "runs": f"{len(net.trainings)}",
                "batch": f"{hyperparameters.batch_size}",
                "micro": f"{math.ceil(share / passes)}",
                "steps": _steps(study, net),
                "epochs": f"{hyperparameters.epochs}",
                "rate": f"{hyperparameters.learning_rate:g}{rate}",
                "crop": f"{hyperparameters.crop_size}",
                "precision": hyperparameters.precision,
                **memory,
                "each takes": _time_of_each(study, net, paces),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _fitted(
    columns: Mapping[str, list[str]], width: int
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Returns the columns for a terminal, and by name the value of those that it has no room for.

    Those go first that are the same in all lines.
    """
    shown, alike = dict(columns), {}
    for name in DROPPED:
        taken = sum(GAP + max(map(len, (one, *cells))) for one, cells in shown.items())
        if taken + GAP > width and name in shown and len(set(shown[name])) == 1:
            alike[name] = shown.pop(name)[0]
    return shown, alike


def _steps(study: Study, net: _Net) -> str:
    """The optimiser's steps an epoch; splits may differ."""
    steps = {
        math.ceil(len(study.parts_of(one).train) / net.first.hyperparameters.batch_size)
        for one in net.trainings
    }
    return "–".join(str(count) for count in sorted({min(steps), max(steps)}))


def _time_of_each(study: Study, net: _Net, paces: Paces) -> str:
    pace = paces.of(net.first)
    if pace is None:
        return "unknown"
    parts = study.parts_of(net.first)
    passes = net.first.hyperparameters.epochs * epoch_passes(net.first, parts)
    seconds = passes / study.request.resources.workers
    return told_span(pace.seconds[0] * seconds, pace.seconds[1] * seconds)


def _print_estimate(
    study: Study, expected: Estimate, at_once: int | None, console: Console
) -> None:
    """Prints the device time of each phase and the wall time of all."""
    resources = study.request.resources
    each, unit = resources.gpus_per_worker, "GPU-hours"
    if study.gpu is None:
        each, unit = resources.cpus_per_worker, "core-hours"
    names = dict(PHASES)
    if (most := most_trainings(study)) > len(study.plan().trainings):
        names["trainings"] += f" (up to {most})"
    spans = {names[phase]: span for phase, span in expected.phases.items()}
    lows, highs = zip(*spans.values(), strict=True) if spans else ((0.0,), (0.0,))
    spans["all"] = (sum(lows), sum(highs))
    table = Table("left to do", unit, box=box.SIMPLE)
    for name, (low, high) in spans.items():
        table.add_row(name, _hours(low * each / 3600, high * each / 3600))
    say = Terminal(console)
    if expected.phases:
        console.print(table)
        where = f"{at_once} at once" if at_once else "one at a time; give --at-once for a cluster's"
        say.say(f"wall time, {where}: {told_span(*expected.wall)}")
    if expected.unknown:
        nets = ", ".join(describe_net(training) for training in expected.unknown)
        say.warn(
            f"no time is estimated for {nets}: this machine doesn't have the device, or is too "
            f"slow to try them, and no training in {study.request.results} is finished on one. "
            "Ask again where they are to run, or when the first has finished"
        )


def _hours(low: float, high: float) -> str:
    first, last = f"{low:.2g}", f"{high:.2g}"
    return last if first == last else f"{first}–{last}"


def _print_sources(plan: Plan, paces: Paces, device: str | None, console: Console) -> None:
    """Prints what the estimate rests on, by network where that differs."""
    nets: dict[str, dict[str, None]] = {}
    for training in plan.trainings.values():
        if (pace := paces.of(training)) is not None:
            nets.setdefault(pace.source, {})[describe_net(training, plan.trainings.values())] = None
    for source, names in nets.items():
        told = SOURCES[source].format(device=device)
        which = f": {', '.join(names)}" if len(nets) > 1 else ""
        Terminal(console).say(f"estimated from {told}{which}")
