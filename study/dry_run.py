"""What a study would do, and about how long that takes."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from study.calibration import device_of, earlier_paces, measure_pace
from study.cluster.resources import trainings_at_once
from study.durations import told_span
from study.estimate import Estimate, Paces, epoch_passes, estimate_study, key_of
from study.labels import describe_net
from study.ledger import Ledger, look
from study.plan import Plan, Training
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.searches import agenda_of, most_trainings, objective_of, searches_of
from study.terminal import Terminal

__all__ = ["print_dry_run"]

PHASES = {"search": "search", "trainings": "reported trainings", "scoring": "scoring"}
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
    expected = estimate_study(
        study,
        agenda,
        look(agenda, Ledger(ResultStore(study.request.results), objectives)),
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
    arms: Sequence[str]

    @property
    def first(self) -> Training:
        """One of them."""
        return self.trainings[0]


def _nets(plan: Plan) -> list[_Net]:
    alike: dict[str, dict[str, Training]] = {}
    arms: dict[str, dict[str, None]] = {}
    for row in plan.rows:
        for one in row.distinct_trainings:
            settings = asdict(one.hyperparameters)
            net = canonical_json([one.model, one.options, settings, one.train_on])
            alike.setdefault(net, {})[one.training_id] = one
            arms.setdefault(net, {})[row.arm.name] = None
    return [
        _Net(trainings=tuple(trainings.values()), arms=tuple(arms[net]))
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
    """Prints each network with the arms that it serves, then what its trainings take."""
    columns = ["net", "splits × seeds", "batch", "steps an epoch", "precision", "time of each"]
    if study.gpu is not None:
        columns.insert(-1, "GiB")
    table = Table(*columns, box=box.SIMPLE)
    say = Terminal(console)
    for number, net in enumerate(_nets(plan), start=1):
        what = describe_net(net.first, plan.trainings.values())
        say.say(f"net {number}: {what} for {', '.join(net.arms)}")
        table.add_row(str(number), *_row(study, net, paces))
    console.print(table)


def _row(study: Study, net: _Net, paces: Paces) -> list[str]:
    hyperparameters, division = net.first.hyperparameters, study.division(net.first)
    passes, needed = hyperparameters.accumulation_steps, []
    how: list[str] = [hyperparameters.precision]
    if division is not None:
        passes = division.accumulation_steps
        how += ["checkpointing"] if division.activation_checkpointing else []
        needed = [f"{division.needed_bytes / 2**30:.1f}"]
    splits = dict.fromkeys(one.target.split for one in net.trainings)
    return [
        f"{', '.join(splits)} × {len(net.trainings) // len(splits)}",
        _batch(hyperparameters.batch_size, study.request.resources.workers, passes),
        _steps(study, net),
        ", ".join(how),
        *needed,
        _time_of_each(study, net, paces),
    ]


def _batch(batch_size: int, workers: int, passes: int) -> str:
    """A batch, and of how many passes of how many videos in how many processes it is made."""
    micro_batch = math.ceil(math.ceil(batch_size / workers) / passes)
    factors = [f"{passes} passes"] if passes > 1 else []
    factors += [f"{workers} workers"] if workers > 1 else []
    return " × ".join([f"{batch_size} = {micro_batch}", *factors]) if factors else f"{batch_size}"


def _steps(study: Study, net: _Net) -> str:
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
    """Prints what the estimate rests on."""
    nets: dict[str, dict[str, None]] = {}
    for training in plan.trainings.values():
        if (pace := paces.of(training)) is not None:
            nets.setdefault(pace.source, {})[describe_net(training, plan.trainings.values())] = None
    for source, names in nets.items():
        told = SOURCES[source].format(device=device)
        Terminal(console).say(f"estimated from {told}: {', '.join(names)}")
