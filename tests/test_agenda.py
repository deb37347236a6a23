"""The agenda with a fake runner: any order, any number of places, kills and failures."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search_spaces.space import Choice, Real
from study.agenda import Agenda, ArmSearch, Finished, Found, Job, Outlook, next_jobs
from study.plan import Plan, PlannedRow, Training
from study.search import Chosen, Search

RUNGS = (1, 3, 9)
COARSE = Choice(name="dim", choices=(1, 2, 3))  # different trials propose the same training
FINE = Real(name="rate", low=0.0, high=1.0)


@dataclass(frozen=True)
class FakeTraining:
    """All that the agenda knows of a training."""

    training_id: str
    epochs: int = RUNGS[-1]
    views: str = ""
    stages: tuple["FakeTraining", ...] = ()

    @property
    def scoring_id(self) -> str:
        return self.training_id + self.views

    @property
    def hyperparameters(self) -> SimpleNamespace:
        return SimpleNamespace(epochs=self.epochs)

    @property
    def starts(self) -> dict[str, str]:
        return {str(i): stage.training_id for i, stage in enumerate(self.stages)}

    def first_stage(self, given: str) -> "FakeTraining":
        return self.stages[int(given)]


def fake_training(training_id: str, epochs: int = RUNGS[-1]) -> Training:
    return cast(Training, FakeTraining(training_id, epochs))


def training_of(net: str, values: Mapping[str, Any], seed: int = 0) -> Training:
    """A training of a net: towers start from what is pretrained, a fused net from towers."""
    stages: tuple[Training, ...] = ()
    if net == "towers":
        stages = (fake_training("pretrained"),)
    if net == "fused":
        stages = (training_of("towers", {}, seed),)
    name = f"{net}/{sorted(values.items())}/{seed}"
    return cast(Training, FakeTraining(name, stages=cast(tuple[FakeTraining, ...], stages)))


def fake_row(arm: str, *trainings: Training) -> PlannedRow:
    """All that the agenda knows of a row."""
    distinct = tuple({one.training_id: one for one in trainings}.values())
    return cast(
        PlannedRow, SimpleNamespace(arm=SimpleNamespace(name=arm), distinct_trainings=distinct)
    )


def ids_of(row: PlannedRow) -> tuple[str, ...]:
    return tuple(one.training_id for one in row.distinct_trainings)


def parts_of(row: PlannedRow, training: Training) -> tuple[str, ...]:
    scores = ("validation", "test")
    return ("train", *scores) if "early" in row.arm.name else scores


def make_agenda(
    arms: Mapping[str, tuple[str, Search | None]],
    *,
    seeds: int = 2,
    first_seed: int = 0,
    own_choices: bool = False,
) -> Agenda:
    """An agenda of arms, each with its net and its search.

    Where arms choose for themselves, each has two streams with a training of its own.
    """
    found_by = {name: (net, search) for name, (net, search) in arms.items()}

    def plan(found: Mapping[str, Found | None]) -> Plan:
        rows, trainings = [], {}
        for arm, (net, search) in found_by.items():
            chosen: list[Mapping[str, Any]] = [{}]
            if search is not None:
                best = found.get(search.name)
                if best is None:
                    continue
                chosen = [best.values]
                if own_choices:
                    numbers = best.choices[arm].trials.values()
                    chosen = [best.trials[number].values for number in numbers]
            for seed in range(first_seed, first_seed + seeds):
                read = [training_of(net, values, seed) for values in chosen]
                trainings.update({one.training_id: one for one in read})
                rows.append(fake_row(arm, *read))
        return Plan(rows=tuple(rows), trainings=trainings)

    def maker(net: str) -> Callable[[Mapping[str, Any]], Training]:
        return lambda values: training_of(net, values)

    searches: dict[str, ArmSearch] = {}
    for arm, (net, search) in arms.items():
        if search is not None:
            earlier = searches[search.name].arms if search.name in searches else ()
            searches[search.name] = ArmSearch(
                search=search,
                make_training=maker(net),
                arms=(*earlier, arm),
                target="ucf101 split 1",
                own_choices=own_choices,
            )
    return Agenda(searches=tuple(searches.values()), plan=plan, parts=parts_of)


def make_search(name: str, **changes: Any) -> Search:
    asked = {"name": name, "parameters": (FINE,), "trials": 6, "rungs": RUNGS, "sampler": "random"}
    return Search(**{**asked, **changes})


@cache
def true_value(seed: int, search: str, key: str, epoch: int) -> float:
    """A training's objective; coarse, so that some tie."""
    final = random.Random(f"{seed}/{search}/{key}").random()
    noise = random.Random(f"{seed}/{search}/{key}/{epoch}").random()
    return round(final + noise / epoch, 2)


class World:
    """Trainings' true curves, which of them fail, and what has been finished of them."""

    def __init__(self, agenda: Agenda, seed: int, failing: float = 0.0) -> None:
        self.agenda, self.seed, self.failing = agenda, seed, failing
        self.at: dict[str, int] = {}
        self.parts: dict[str, frozenset[str]] = {}
        self.failed: dict[str, str] = {}
        self.ran: Counter[tuple[str, int, tuple[str, ...]]] = Counter()
        self.choices: dict[str, Mapping[str, Chosen]] = {}

    def choose(self, outlook: Outlook) -> None:
        """Has each arm choose a complete trial for each of two streams, by the trials alone."""
        for one in self.agenda.searches:
            if one.search.name in outlook.undecided:
                trials = outlook.searches[one.search.name]
                complete = [trial.number for trial in trials if trial.state == "complete"]
                self.choices[one.search.name] = {
                    arm: Chosen(
                        trials={
                            stream: random.Random(f"{arm} {stream} {trials}").choice(complete)
                            for stream in ("spatial", "temporal")
                        },
                        candidates=len(complete) ** 2,
                        top1=0.5,
                    )
                    for arm in one.arms
                }

    def finished(self) -> Finished:
        return Finished(
            values={
                (one.search.name, key): {
                    epoch: true_value(self.seed, one.search.name, key, epoch)
                    for epoch in range(1, last + 1)
                }
                for one in self.agenda.searches
                for key, last in self.at.items()
            },
            parts=dict(self.parts),
            failed=dict(self.failed),
            choices=dict(self.choices),
            networks={key: key for key, last in self.at.items() if last == RUNGS[-1]},
        )

    def run(self, job: Job) -> None:
        key = job.training.training_id
        assert key not in self.failed
        for first in job.training.starts.values():
            assert self.at[first] == RUNGS[-1], "what it starts from is finished"
        assert not set(job.parts) & self.parts.get(key, frozenset())
        self.ran[key, job.until, job.parts] += 1
        chance = random.Random(f"{self.seed}/{key}/failure")
        last = chance.choice((0, 1, 2, 3, 5)) if chance.random() < self.failing else None
        if last is not None and last < job.until:
            self.at[key] = max(last, self.at.get(key, 0))
            self.failed[key] = f"loss is nan after epoch {last}"
            return
        self.at[key] = max(job.until, self.at.get(key, 0))
        if job.parts:
            assert job.until == job.training.hyperparameters.epochs
            self.parts[key] = self.parts.get(key, frozenset()) | set(job.parts)


def outcome(world: World, outlook: Outlook) -> tuple[Any, ...]:
    """All that a study's results are made of."""
    rows = [(row.arm.name, ids_of(row)) for row in outlook.rows]
    return outlook.searches, rows, outlook.failures


def run_study(
    agenda: Agenda, seed: int, *, chance: random.Random | None = None, failing: float = 0.0
) -> tuple[World, Outlook]:
    """Runs a study: job by job in the queue's order, or with chance in any order and with kills."""
    world = World(agenda, seed, failing)
    running: dict[str, Job] = {}
    places = 1 if chance is None else chance.choice((1, 2, 4, 64))
    kills = 0.0 if chance is None else chance.choice((0.0, 0.1))
    before = -1
    while True:
        if chance is not None and chance.random() < kills:
            running.clear()
        outlook = next_jobs(agenda, world.finished())
        assert len(outlook.rows) >= before
        before = len(outlook.rows)
        check(outlook, world)
        if outlook.done:
            return world, outlook
        if outlook.undecided:
            world.choose(outlook)
            continue
        for job in outlook.jobs:
            if len(running) < places:
                running.setdefault(job.training.training_id, job)
        key = next(iter(running)) if chance is None else chance.choice(sorted(running))
        world.run(running.pop(key))


def check(outlook: Outlook, world: World) -> None:
    """What holds at every moment."""
    keys = [job.training.training_id for job in outlook.jobs]
    assert len(keys) == len(set(keys))
    wanted: dict[str, set[str]] = {}
    for row in outlook.plan.rows:
        for one in row.distinct_trainings:
            wanted.setdefault(one.training_id, set()).update(parts_of(row, one))
    for job in outlook.jobs:
        key = job.training.training_id
        assert key not in world.failed
        scored = world.parts.get(key, frozenset())
        assert job.until > world.at.get(key, 0) or set(job.parts) - scored, "nothing left to do"
        assert job.search is not None or set(job.parts) == wanted.get(key, set()) - scored
    assert not {job.training.training_id for job in outlook.held_up} & set(keys)
    assert outlook.done == (not outlook.jobs and not outlook.undecided)
    if outlook.done:
        assert not outlook.waiting
    for row in outlook.rows:
        for one in row.distinct_trainings:
            assert set(parts_of(row, one)) <= world.parts[one.training_id]


def make_study(seed: int, *, staged: bool = False) -> Agenda:
    """A small study drawn at random; in a staged one trainings start from others."""
    chance = random.Random(seed)

    def search(name: str) -> Search:
        return make_search(
            name,
            trials=chance.randint(1, 7),
            lag=chance.choice((1, 2, 8)),
            rungs=chance.choice(((9,), (3, 9), (1, 3, 9))),
            parameters=chance.choice(((FINE,), (COARSE,))),
            seed=chance.randint(0, 2),
            prune_from=chance.choice((1, 4)),
        )

    shared, own = search("shared"), search("own")
    arms = {
        "one": ("plain", shared),
        "one-early": ("plain", shared),  # another arm of the same search and training
        "two": ("plain", own),  # another search over the same net
        "three": ("stil", search("third")),
        "untuned": ("c3d", None),
    }
    if staged:
        arms = {
            "fused": ("fused", search("fused")),
            "fused-untuned": ("fused", None),
            "plain": ("plain", shared),
            "towers": ("towers", None),
        }
    kept = chance.sample(sorted(arms), chance.randint(1, len(arms)))
    return make_agenda(
        {name: arms[name] for name in sorted(kept)},
        seeds=chance.randint(1, 2),
        own_choices=seed % 2 == 1,
    )


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("failing", [0.0, 0.3, 1.0])
def test_the_same_outcome_in_any_order_with_any_places_and_kills(
    failing: float, staged: bool
) -> None:
    for seed in range(30 if staged else 100):
        agenda = make_study(seed, staged=staged)
        expected = outcome(*run_study(agenda, seed, failing=failing))
        chance = random.Random(seed)
        for _ in range(8):
            world, outlook = run_study(agenda, seed, chance=chance, failing=failing)
            assert outcome(world, outlook) == expected


def test_what_trainings_start_from_is_trained_once_and_before_them() -> None:
    """``World.run`` refuses a training whose first stage isn't finished."""
    agenda = make_agenda({"fused": ("fused", None), "towers": ("towers", None)}, seeds=2)
    outlook = next_jobs(agenda, Finished())
    (first,) = outlook.jobs
    assert (first.training.training_id, first.until, first.parts) == ("pretrained", 9, ())
    assert len(outlook.held_up) == 4, "two towers and what starts from them"
    world, outlook = run_study(agenda, 0)
    assert len(outlook.rows) == 4
    ran = [key for key, _, _ in world.ran]
    assert ran[0] == "pretrained"
    assert len(ran) == len(set(ran)) == 5
    assert not outlook.held_up


def test_what_starts_from_a_training_that_failed_is_lost_with_it() -> None:
    arms = {"fused": ("fused", make_search("s")), "towers": ("towers", None), "net": ("net", None)}
    agenda = make_agenda(arms, seeds=1)
    outlook = next_jobs(agenda, Finished(failed={"pretrained": "no room"}))
    assert [job.training.training_id for job in outlook.jobs] == ["net/[]/0"]
    assert not outlook.held_up
    assert [str(failure) for failure in outlook.failures] == [
        "fused: none of the 6 trials on ucf101 split 1 completed; trial 0 failed with: what it "
        "starts from: no room",
        "towers: what it starts from: no room",
    ]


def test_a_training_whose_own_network_is_kept_needs_no_first_stage_to_be_scored() -> None:
    agenda = make_agenda({"fused": ("fused", None)}, seeds=1)
    (one,) = next_jobs(agenda, Finished()).plan.trainings
    (job,) = next_jobs(agenda, Finished(networks={one: one})).jobs
    assert job.training.training_id == one


def test_the_answer_depends_on_nothing_that_was_asked_before() -> None:
    for seed in range(30):
        agenda, states = make_study(seed), []
        world = World(agenda, seed, failing=0.2)
        while not (outlook := next_jobs(agenda, world.finished())).done:
            states.append((world.finished(), outlook))
            if outlook.undecided:
                world.choose(outlook)
            else:
                world.run(outlook.jobs[-1])
        random.Random(seed).shuffle(states)
        for finished, outlook in states:
            assert next_jobs(agenda, finished) == outlook
            assert outcome(world, next_jobs(make_study(seed), finished)) == outcome(world, outlook)


def test_the_same_outcome_with_tpe() -> None:
    tpe = make_search("tpe", sampler="tpe", trials=26, lag=4, parameters=(FINE, COARSE))
    agenda = make_agenda({"one": ("plain", tpe), "two": ("stil", make_search("other"))})
    expected = outcome(*run_study(agenda, 0))
    for seed in range(5):
        world, outlook = run_study(agenda, 0, chance=random.Random(seed))
        assert outcome(world, outlook) == expected


def test_without_kills_every_job_runs_once_and_no_training_is_left_out() -> None:
    for seed in range(30):
        agenda = make_study(seed)
        world, outlook = run_study(agenda, seed)
        assert set(world.ran.values()) == {1}
        assert len(outlook.rows) == len(outlook.plan.rows)
        assert set(world.parts) == set(outlook.plan.trainings)
        assert not outlook.failures


def test_a_training_that_a_trial_and_the_ablation_want_runs_to_its_end_once() -> None:
    search = make_search("search", parameters=(COARSE,), trials=1, rungs=(9,))
    agenda = make_agenda({"searched": ("net", search)}, seeds=1)
    first = next_jobs(agenda, Finished())
    (job,) = first.jobs
    assert (job.until, job.parts, job.search, job.trial) == (9, (), "search", 0)
    # The same training is in the plan of an arm without a search.
    values = first.searches["search"][0].values
    joint = replace(
        agenda,
        plan=lambda found: Plan(
            rows=(fake_row("a", job.training),),
            trainings={job.training.training_id: training_of("net", values)},
        ),
    )
    (both,) = next_jobs(joint, Finished()).jobs
    assert (both.until, both.parts) == (9, ("validation", "test"))
    world = World(joint, 0)
    world.run(both)
    assert next_jobs(joint, world.finished()).done


def test_only_the_parts_that_are_missing_are_scored() -> None:
    agenda = make_agenda({"one": ("net", None), "one-early": ("net", None)}, seeds=1)
    (job,) = next_jobs(agenda, Finished()).jobs
    assert job.parts == ("validation", "test", "train")
    stored = {job.training.training_id: frozenset({"validation", "test"})}
    outlook = next_jobs(agenda, Finished(parts=stored))
    assert [job.parts for job in outlook.jobs] == [("train",)]
    assert [row.arm.name for row in outlook.rows] == ["one"]


def test_a_training_that_two_arms_see_in_other_views_is_scored_for_one_after_the_other() -> None:
    few, many = (cast(Training, FakeTraining("net", views=views)) for views in ("/3", "/25"))
    rows = (fake_row("few", few), fake_row("many", many))
    plan = Plan(rows=rows, trainings={"net": few})
    agenda = Agenda(searches=(), plan=lambda found: plan, parts=lambda row, training: ("test",))
    parts: dict[str, frozenset[str]] = {}
    for one in (few, many):
        outlook = next_jobs(agenda, Finished(parts=dict(parts)))
        (job,) = outlook.jobs
        assert (job.training, job.parts) == (one, ("test",))
        parts[one.scoring_id] = frozenset({"test"})
    outlook = next_jobs(agenda, Finished(parts=parts))
    assert outlook.done
    assert [row.arm.name for row in outlook.rows] == ["few", "many"]


def test_arms_without_a_search_and_those_whose_search_is_done_run_while_others_search() -> None:
    agenda = make_agenda(
        {
            "untuned": ("c3d", None),
            "quick": ("tsn", make_search("quick", trials=1, rungs=(9,))),
            "slow": ("i3d", make_search("slow", trials=5)),
        },
        seeds=1,
    )
    outlook = next_jobs(agenda, Finished())
    assert [row.arm.name for row in outlook.plan.rows] == ["untuned"]
    world = World(agenda, 0)
    world.run(next(job for job in outlook.jobs if job.search == "quick"))
    outlook = next_jobs(agenda, world.finished())
    assert [row.arm.name for row in outlook.plan.rows] == ["untuned", "quick"]
    # The winner's own training is the ablation's: only its scores are missing.
    assert {job.training.training_id for job in outlook.jobs if job.search is None} == {
        key for row in outlook.plan.rows for key in ids_of(row)
    }


def test_the_queue_has_first_what_the_longest_chain_waits_for() -> None:
    agenda = make_agenda(
        {
            "a": ("a", make_search("a", trials=4, lag=2)),
            "b": ("b", make_search("b", trials=8, lag=2)),
            "untuned": ("c3d", None),
        }
    )
    order = [(job.search, job.trial) for job in next_jobs(agenda, Finished()).jobs]
    searched = [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    assert order == [*searched, (None, None), (None, None)]
    # Chains are 2 + 1 trainings of "a", 4 + 1 of "b" and 1 of the ablation.
    costs = {"a": 2.0, "b": 1.0, "c": 3.5}
    dear = replace(agenda, cost=lambda training: costs[training.training_id[0]])
    order = [(job.search, job.trial) for job in next_jobs(dear, Finished()).jobs]
    assert order == [*searched[2:], *searched[:2], (None, None), (None, None)]
    costs["c"] = 5.5
    order = [(job.search, job.trial) for job in next_jobs(dear, Finished()).jobs]
    assert order == [*searched[2:], (None, None), (None, None), *searched[:2]]


def test_the_order_of_the_queue_changes_no_outcome() -> None:
    for seed in range(20):
        agenda = make_study(seed)
        reverse = replace(agenda, cost=lambda training: -len(training.training_id))
        expected = outcome(*run_study(agenda, seed))
        assert outcome(*run_study(reverse, seed)) == expected


def test_the_longest_of_the_ablation_comes_first() -> None:
    short, long = fake_training("short", 5), fake_training("long", 50)
    rows = tuple(fake_row(one.training_id, one) for one in (short, long))
    agenda = Agenda(
        searches=(),
        plan=lambda found: Plan(rows=rows, trainings={"short": short, "long": long}),
        parts=lambda row, training: ("test",),
    )
    assert [job.until for job in next_jobs(agenda, Finished()).jobs] == [50, 5]


def test_what_waits_is_counted() -> None:
    search = make_search("search", trials=9, lag=4, prune_from=1)
    agenda = make_agenda({"arm": ("net", search)})
    (waiting,) = next_jobs(agenda, Finished()).waiting
    assert (waiting.at_rungs, waiting.unproposed, waiting.blocking) == (0, 5, 0)
    world = World(agenda, 0)
    for job in next_jobs(agenda, Finished()).jobs[1:]:
        world.run(job)
    (waiting,) = next_jobs(agenda, world.finished()).waiting
    assert (waiting.at_rungs, waiting.unproposed, waiting.blocking) == (3, 5, 0)


def test_a_search_without_a_complete_trial_loses_its_arms_and_no_others() -> None:
    search = make_search("search", trials=3)
    agenda = make_agenda(
        {"one": ("net", search), "two": ("net", search), "untuned": ("c3d", None)}, seeds=1
    )
    world = World(agenda, 0)
    while not (outlook := next_jobs(agenda, world.finished())).done:
        for job in outlook.jobs:
            if job.search is None:
                world.run(job)
            else:
                world.failed[job.training.training_id] = "out of memory"
    assert [row.arm.name for row in outlook.rows] == ["untuned"]
    (failure,) = outlook.failures
    assert (failure.arms, failure.search) == (("one", "two"), "search")
    assert failure.reason == (
        "none of the 3 trials on ucf101 split 1 completed; trial 0 failed with: out of memory"
    )


def test_a_planned_training_that_failed_loses_its_rows_and_no_others() -> None:
    agenda = make_agenda({"one": ("net", None), "two": ("net", None), "three": ("c3d", None)})
    world = World(agenda, 0)
    lost = next_jobs(agenda, Finished()).jobs[0].training.training_id
    world.failed[lost] = "disk full"
    while not (outlook := next_jobs(agenda, world.finished())).done:
        world.run(outlook.jobs[0])
    assert [(row.arm.name) for row in outlook.rows] == ["one", "two", "three", "three"]
    (failure,) = outlook.failures
    assert (failure.arms, failure.training_id) == (("one", "two"), lost)
    assert failure.reason == "disk full"


def test_more_trials_extend_a_study_and_run_nothing_again() -> None:
    for seed in range(20):
        arms = {"one": ("net", make_search("search", seed=seed))}
        world, _ = run_study(make_agenda(arms), seed)
        longer = {"one": ("net", make_search("search", seed=seed, trials=12))}
        expected_world, expected = run_study(make_agenda(longer), seed)
        agenda = make_agenda(longer)
        world.agenda = agenda
        while not (outlook := next_jobs(agenda, world.finished())).done:
            world.run(outlook.jobs[0])
        assert outcome(world, outlook) == outcome(expected_world, expected)
        epochs = {job: count for job, count in world.ran.items() if not job[2]}
        assert set(epochs.values()) == {1}


def test_arms_wait_for_their_choices_and_are_planned_with_them() -> None:
    search = make_search("search", trials=2, rungs=(9,))
    agenda = make_agenda({"one": ("net", search)}, seeds=1, first_seed=1, own_choices=True)
    world = World(agenda, 0)
    for job in next_jobs(agenda, Finished()).jobs:
        world.run(job)
    outlook = next_jobs(agenda, world.finished())
    assert (outlook.undecided, outlook.jobs, outlook.plan.rows) == (("search",), (), ())
    assert not outlook.done
    world.choices["search"] = {
        "one": Chosen(trials={"spatial": 1, "temporal": 0}, candidates=4, top1=0.5)
    }
    outlook = next_jobs(agenda, world.finished())
    first, second = outlook.searches["search"]
    expected = [training_of("net", trial.values, 1).training_id for trial in (second, first)]
    assert [job.training.training_id for job in outlook.jobs] == expected
    (row,) = outlook.plan.rows
    assert ids_of(row) == tuple(expected)
    world.run(outlook.jobs[0])
    assert not next_jobs(agenda, world.finished()).rows, "it reads both"
    world.run(outlook.jobs[1])
    assert len(next_jobs(agenda, world.finished()).rows) == 1


def test_searches_of_one_name_are_refused() -> None:
    one = ArmSearch(
        search=make_search("search"),
        make_training=lambda values: training_of("net", values),
        arms=("a",),
        target="t",
    )
    with pytest.raises(ValueError, match="searches of one name on an agenda: search"):
        replace(make_agenda({}), searches=(one, one))
