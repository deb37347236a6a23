"""Which searches a study makes, and whom they serve."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from search_spaces.space import Choice, Real
from study.agenda import ArmSearch, Finished, Found, next_jobs
from study.estimate import work_left
from study.ledger import Ledger, look
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.search import Chosen, Trial
from study.searches import (
    SearchKey,
    agenda_of,
    most_trainings,
    objective_of,
    parts_of,
    searches_of,
)
from tests.sample_results import PROTOCOL, write_protocol
from tests.test_conduct import Runner, study_of

RATE = Real(name="learning_rate", low=1e-3, high=1e-2, log=True)


def only_search(study: Study) -> ArmSearch:
    (one,) = searches_of(study).values()
    return one


def stil_of(store: Path, results: Path, **request: Any) -> Study:
    """A study of one net that interacts."""
    return study_of(store, results, **{"arms": ("stil", "stil-awf-simplex"), **request})


def names(study: Study) -> set[str]:
    return {parameter.name for parameter in only_search(study).search.parameters}


def test_the_first_trial_is_the_training_that_is_not_tuned(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = stil_of(tiny_store, tmp_path)
    one = only_search(study)
    untuned = study.trial(study.arms, study.targets[0], {})
    first = one.search.first
    assert first["learning_rate"] == untuned.hyperparameters.learning_rate
    assert first["options.attention_dim"] == untuned.options["attention_dim"] == 512
    assert first["loss_weights.spatial"] == 1.0
    assert set(first) == names(study)
    outlook = next_jobs(agenda_of(study, searches_of(study)), Finished())
    trial = outlook.searches[one.search.name][0]
    assert trial.values == first
    # A first value outside of the searched range is proposed by the sampler instead.
    low = stil_of(tiny_store, tmp_path, parameters=(_rate(1e-6, 1e-5),))
    assert set(only_search(low).search.first) == names(low) - {"learning_rate"}


def _rate(low: float, high: float) -> Real:
    return Real(name="learning_rate", low=low, high=high, log=True)


@pytest.mark.parametrize("tuning", ["net", "own"])
def test_each_net_has_one_search_over_what_matters_to_it(
    tiny_store: Path, tmp_path: Path, tuning: str
) -> None:
    study = study_of(tiny_store, tmp_path, tuning=tuning)
    found = {name: one for (_, name, _), one in searches_of(study).items()}
    plain = tuple(arm.name for arm in study.arms if not arm.options["interaction"])
    stil = tuple(arm.name for arm in study.arms if arm.options["interaction"])
    assert {name: one.arms for name, one in found.items()} == {"two-stream": plain, "stil": stil}
    searched = {
        name: {parameter.name for parameter in one.search.parameters} for name, one in found.items()
    }
    rate = {"learning_rate", "loss_weights.spatial", "loss_weights.temporal"}
    assert searched == {"two-stream": rate, "stil": rate | {"options.attention_dim"}}
    assert all(one.search.trials == 6 for one in found.values()), "all nets have one budget"
    assert {one.own_choices for one in found.values()} == {tuning == "own"}


def test_a_shared_search_is_of_the_spaces_arm_and_for_all(tiny_store: Path, tmp_path: Path) -> None:
    arms = ("spatial", "two-stream", "stil")
    shared = searches_of(study_of(tiny_store, tmp_path, tuning="shared", arms=arms))
    assert [(name, one.arms) for (_, name, _), one in shared.items()] == [
        ("stil-awf-simplex", arms)
    ]
    for none in ({"tuning": "fixed"}, {"trials": 0}):
        assert not searches_of(study_of(tiny_store, tmp_path, **none))


@pytest.mark.parametrize(
    ("arms", "name", "fusion", "streams"),
    [
        (("spatial",), "two-stream", "average", ("spatial", "temporal")),
        (("temporal", "two-stream-early"), "two-stream", "average", ("spatial", "temporal")),
        (("stil-awf-l2",), "stil", "average", ("spatial", "temporal")),
    ],
)
def test_a_net_is_judged_by_the_late_average_of_its_streams_whichever_arms_are_asked_for(
    tiny_store: Path,
    tmp_path: Path,
    arms: tuple[str, ...],
    name: str,
    fusion: str,
    streams: tuple[str, ...],
) -> None:
    study = study_of(tiny_store, tmp_path, arms=arms)
    ((key, one),) = searches_of(study).items()
    assert key[1] == name
    assert objective_of(study, key).fusion == fusion
    assert one.make_training(one.search.first).options["streams"] == streams


def test_all_parameters_set_leave_nothing_to_search(tiny_store: Path, tmp_path: Path) -> None:
    pinned = {
        "learning_rate": 0.02,
        "loss_weights.spatial": 1.0,
        "loss_weights.temporal": 1.0,
    }
    study = study_of(tiny_store, tmp_path, changes=pinned, arms=("two-stream", "stil"))
    ((_, name, _),) = searches_of(study)
    assert name == "stil", "its attention is left"
    agenda = agenda_of(study, searches_of(study))
    assert {row.arm.name for row in agenda.plan({}).rows} == {"two-stream"}


def test_the_trials_of_the_net_that_takes_longest_come_first(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, arms=("two-stream", "stil"), trials=2)
    jobs = next_jobs(agenda_of(study, searches_of(study)), Finished()).jobs
    assert [job.training.options["interaction"] for job in jobs] == [True, True, False, False]


def test_no_trial_has_a_reported_seed(tiny_store: Path, tmp_path: Path) -> None:
    for search_seed in (0, 1, 2):
        study = stil_of(tiny_store, tmp_path, seeds=3, search_seed=search_seed)
        one = only_search(study)
        assert one.search.seed == search_seed
        trial = one.make_training({})
        reported = study.plan().trainings.values()
        assert {training.seed for training in reported} == {1, 2, 3}
        assert trial.seed not in {1, 2, 3}
        assert replace(trial, seed=1) in reported


def test_what_is_set_is_not_searched(tiny_store: Path, tmp_path: Path) -> None:
    free = stil_of(tiny_store, tmp_path)
    pinned = stil_of(tiny_store, tmp_path, changes={"learning_rate": 0.02})
    assert names(free) - names(pinned) == {"learning_rate"}
    one = only_search(pinned)
    assert one.make_training(one.search.first).hyperparameters.learning_rate == 0.02


def test_search_replaces_a_parameter_or_adds_one(tiny_store: Path, tmp_path: Path) -> None:
    before = names(stil_of(tiny_store, tmp_path))
    momentum = Choice(name="momentum", choices=(0.8, 0.9))
    one = only_search(stil_of(tiny_store, tmp_path, parameters=(RATE, momentum)))
    assert {parameter.name for parameter in one.search.parameters} == before | {"momentum"}
    assert RATE in one.search.parameters
    values = {**one.search.first, "momentum": 0.8, "learning_rate": 0.005}
    hyperparameters = one.make_training(values).hyperparameters
    assert (hyperparameters.momentum, hyperparameters.learning_rate) == (0.8, 0.005)


@pytest.mark.parametrize(
    ("parameter", "asked", "said"),
    [
        (Real(name="rate", low=0, high=1), {}, "--search rate: unknown hyperparameters rate"),
        (Real(name="learning_rate", low=-1, high=1), {}, "--search learning_rate: .*, got -1"),
        (Real(name="segments", low=2, high=3), {}, "segments must be a whole number, got 2.0"),
        (Choice(name="momentum", choices=(0.9, 2)), {}, "momentum must be .*, got 2"),
        (Choice(name="options.heads", choices=(1,)), {}, "--search options.heads makes no differ"),
        (Choice(name="options.interaction", choices=(True,)), {}, "makes no difference"),
        (RATE, {"tuning": "fixed"}, "makes no difference to a study that searches nothing"),
    ],
)
def test_a_search_that_no_training_could_take_is_refused(
    tiny_store: Path, tmp_path: Path, parameter: Any, asked: dict[str, Any], said: str
) -> None:
    study = study_of(tiny_store, tmp_path, parameters=(parameter,), **asked)
    with pytest.raises(ValueError, match=said):
        searches_of(study)


def test_the_name_changes_with_what_is_asked_and_with_nothing_else(
    tiny_store: Path, tmp_path: Path
) -> None:
    def name(**asked: Any) -> str:
        return only_search(stil_of(tiny_store, tmp_path, **asked)).search.name

    same = [
        name(),
        name(tuning="own"),
        name(trials=20),
        name(seeds=5),
        name(at_once=2),
        name(max_hours=1.0),
        name(arms=("stil-weighted",)),
    ]
    assert len(set(same)) == 1, "more trials extend a search"
    others = [
        name(),
        name(parameters=(RATE,)),
        name(changes={"learning_rate": 0.02}),
        name(changes={"batch_size": 4}),
        name(changes={"epochs": 18}),
        name(sampler="qmc"),
        name(lag=4),
        name(search_seed=1),
        name(vary=("search",), seeds=1, search_seed=2),
        name(arms=("two-stream",)),
    ]
    assert len(set(others)) == len(others)


def older_trial(results: Path, **changes: Any) -> None:
    """Writes a complete trial of study ``older``."""
    values = {
        "learning_rate": 0.01,
        "options.attention_dim": 256,
        "loss_weights.spatial": 1.0,
        "loss_weights.temporal": 1.0,
        **changes.pop("values", {}),
    }
    line = {
        "study": "older",
        "arm": "stil",
        "protocol": PROTOCOL,
        "dataset": "folder",
        "split": "1",
        "search_seed": 0,
        "search": "folder-1/stil/0123abcd",
        "trial": 0,
        "training_id": "t",
        "parameters": canonical_json(values),
        "validation_top1": 0.5,
        "state": "complete",
        "epochs": 9,
        "seconds": 1.0,
        **changes,
    }
    identity = ("study", "arm", "dataset", "split", "search_seed", "trial")
    key = canonical_json([line[name] for name in identity])
    store = ResultStore(results)
    store.write("trials", key, [line])
    write_protocol(store, line["study"], dataset=line["dataset"])


def test_a_warm_start_knows_the_older_trials_of_this_net_dataset_and_split_alone(
    tiny_store: Path, tmp_path: Path
) -> None:
    split = study_of(tiny_store, tmp_path).targets[0].split
    older_trial(tmp_path, split=split, trial=1, validation_top1=0.625)
    older_trial(tmp_path, split=split, trial=0, values={"learning_rate": 0.02})
    older_trial(tmp_path, split=split, trial=2, values={"learning_rate": 0.5})  # out of range
    older_trial(tmp_path, split=split, trial=0, search_seed=2, validation_top1=0.75)
    older_trial(tmp_path, split=split, trial=3, state="pruned")
    older_trial(tmp_path, split="another")
    older_trial(tmp_path, split=split, arm="stil-weighted")
    older_trial(tmp_path, split=split, dataset="ucf101")
    older_trial(tmp_path, split=split, study="other")
    one = only_search(stil_of(tiny_store, tmp_path, warm_start="older"))
    assert [(values["learning_rate"], top1) for values, top1 in one.search.prior] == [
        (0.02, 0.5),
        (0.01, 0.625),
        (0.01, 0.75),
    ]
    cold = only_search(stil_of(tiny_store, tmp_path))
    assert (cold.search.prior, cold.search.name != one.search.name) == ((), True)


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "another"},
        {"arm": "stil-awf-simplex"},
        {"dataset": "ucf101"},
        {"study": "other"},
        {"state": "failed"},
        {"values": {"learning_rate": 0.5}},
        {"parameters": canonical_json({"learning_rate": 0.01})},
    ],
)
def test_a_warm_start_without_a_trial_to_use_is_refused(
    tiny_store: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    split = study_of(tiny_store, tmp_path).targets[0].split
    older_trial(tmp_path, **{"split": split, **changes})
    with pytest.raises(
        ValueError, match=r"--warm-start older: of its \d complete trials of stil on"
    ):
        searches_of(stil_of(tiny_store, tmp_path, warm_start="older"))


def test_a_study_starts_warm_from_one_that_ran(tiny_store: Path, tmp_path: Path) -> None:
    cold = stil_of(tiny_store, tmp_path, seeds=1)
    Runner(replace(cold, name="older"), 2).run()
    complete = ResultStore(tmp_path).read("trials", state="complete").num_rows
    one = only_search(stil_of(tiny_store, tmp_path, warm_start="older"))
    assert len(one.search.prior) == complete > 0
    with pytest.raises(ValueError, match=r"--warm-start fake is this study itself; .* --name"):
        stil_of(tiny_store, tmp_path, warm_start="fake")


def test_a_protocol_knows_the_trials_that_its_searches_begin_with(
    tiny_store: Path, tmp_path: Path
) -> None:
    def protocol(store: str, older: str | None = "older") -> str:
        return stil_of(tiny_store, tmp_path / store, warm_start=older).protocol

    for store, top1 in (("first", 0.5), ("second", 0.5), ("third", 0.625)):
        older_trial(tmp_path / store, trial=0)
        older_trial(tmp_path / store, trial=1, validation_top1=top1)
        older_trial(tmp_path / store, trial=0, study="renamed")
        older_trial(tmp_path / store, trial=1, validation_top1=0.5, study="renamed")
    assert protocol("first") == protocol("second") == protocol("third", "renamed")
    assert protocol("third") != protocol("first") != protocol("first", None)
    older_trial(tmp_path / "second", trial=2)
    assert protocol("second") != protocol("first"), "the same name holds other trials"


@pytest.mark.parametrize(
    ("vary", "carves", "searches"),
    [
        ((), {0}, {(0, 0)}),
        (("split-carve",), {1, 2, 3}, {(0, 0)}),
        (("search",), {0}, {(0, 1), (0, 2), (0, 3)}),
        (("split-carve", "search"), {1, 2, 3}, {(1, 1), (2, 2), (3, 3)}),
    ],
)
def test_what_is_asked_varies_with_the_reported_seed(
    tiny_store: Path,
    tmp_path: Path,
    vary: tuple[str, ...],
    carves: set[int],
    searches: set[tuple[int, int]],
) -> None:
    study = stil_of(tiny_store, tmp_path, seeds=3, vary=vary)
    made = searches_of(study)
    assert {(target.carve, seed) for target, _, seed in made} == searches
    assert {one.search.seed for one in made.values()} == {seed for _, seed in searches}
    assert len({one.search.name for one in made.values()}) == len(searches)
    found = {one.search.name: found_by({key: one}, "stil") for key, one in made.items()}
    rows = agenda_of(study, made).plan(found).rows
    assert len(rows) == 2 * 3
    assert {row.training.target.carve for row in rows} == carves
    for row in rows:
        assert not carves - {0} or row.training.target.carve == row.training.seed


def test_another_search_seed_than_zero_holds_for_all_varied_searches(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = stil_of(tiny_store, tmp_path, seeds=2, vary=("search",), search_seed=3)
    assert {seed for _, _, seed in searches_of(study)} == {30_001, 30_002}


def test_a_refitted_row_tests_one_training_and_validates_another(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("two-stream", "two-stream-awf-l2", "two-stream-early")
    study = study_of(tiny_store, tmp_path, arms=arms, tuning="fixed", seeds=1, refit=True)
    needed = {
        (row.arm.name, one.train_on): set(parts_of(row, one))
        for row in study.plan().rows
        for one in row.distinct_trainings
    }
    assert needed == {
        ("two-stream", "all"): {"test"},
        ("two-stream-awf-l2", "all"): {"test"},
        ("two-stream-awf-l2", "train"): {"validation"},
        ("two-stream-early", "all"): {"train", "test"},
        ("two-stream-early", "train"): {"train", "validation"},
    }
    assert most_trainings(study) == 2
    own = study_of(tiny_store, tmp_path, arms=arms[:2], tuning="own", seeds=3, refit=True)
    # Two arms read each stream of what is tested, and one each stream of what is validated.
    assert most_trainings(own) == 3 * (2 + 2 + 1 + 1)
    (one,) = searches_of(own).values()
    assert one.make_training(one.search.first).train_on == "train"


def test_without_a_fitted_fusion_a_refit_is_a_training_on_all(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("spatial", "stil")
    refitted, on_all = (
        study_of(tiny_store, tmp_path, arms=arms, tuning="fixed", **how).plan()
        for how in ({"refit": True}, {"train_on": "all"})
    )
    assert refitted.trainings.keys() == on_all.trainings.keys()


def test_a_nets_arms_are_planned_when_its_search_is_done(tiny_store: Path, tmp_path: Path) -> None:
    arms = ("spatial", "two-stream", "stil", "stil-weighted")
    study = study_of(tiny_store, tmp_path, arms=arms)
    searches = searches_of(study)
    agenda = agenda_of(study, searches)

    def planned(*done: str, lost: tuple[str, ...] = ()) -> set[str]:
        name = {net: one.search.name for (_, net, _), one in searches.items()}
        found: dict[str, Found | None] = {name[net]: found_by(searches, net) for net in done}
        found.update(dict.fromkeys((name[net] for net in lost), None))
        return {row.arm.name for row in agenda.plan(found).rows}

    plain, stil = {"spatial", "two-stream"}, {"stil", "stil-weighted"}
    assert planned() == set()
    assert planned("two-stream") == planned("two-stream", lost=("stil",)) == plain
    assert planned("stil") == stil
    assert planned("two-stream", "stil") == plain | stil


def found_by(
    searches: Mapping[SearchKey, ArmSearch], net: str, **choices: Mapping[str, int]
) -> Found:
    """Two trials, of which the second is the better, and what arms chose among them."""
    (one,) = (one for (_, name, _), one in searches.items() if name == net)
    trials = tuple(
        Trial(
            number=number,
            values={**one.search.first, **values},
            state="complete",
            readings={9: 0.5 + number / 10},
            next_rung=None,
        )
        for number, values in enumerate(({"learning_rate": 0.03}, {"learning_rate": 0.0123}))
    )
    return Found(
        trial=trials[1],
        trials=trials,
        choices={
            arm.replace("_", "-"): Chosen(trials=chosen, candidates=4, top1=0.4)
            for arm, chosen in choices.items()
        },
    )


def test_a_nets_arms_train_with_its_best_trial(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path, arms=("spatial", "two-stream"), seeds=2)
    searches = searches_of(study)
    (one,) = searches.values()
    plan = agenda_of(study, searches).plan({one.search.name: found_by(searches, "two-stream")})
    assert {
        (training.hyperparameters.learning_rate, training.options["streams"], training.seed)
        for training in plan.trainings.values()
    } == {(0.0123, ("spatial", "temporal"), 1), (0.0123, ("spatial", "temporal"), 2)}
    assert len(plan.trainings) == 2
    assert {(row.tuned_by, row.tuned["trial"]) for row in plan.rows} == {("two-stream", 1)}


def test_an_arm_trains_each_independent_stream_with_the_trial_that_it_chose(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("spatial", "temporal", "two-stream", "two-stream-awf-l2")
    study = study_of(tiny_store, tmp_path, arms=arms, tuning="own", seeds=1)
    searches = searches_of(study)
    (one,) = searches.values()
    found = found_by(
        searches,
        "two-stream",
        spatial={"spatial": 0},
        temporal={"temporal": 0},
        two_stream={"spatial": 0, "temporal": 1},
        two_stream_awf_l2={"spatial": 1, "temporal": 1},
    )
    plan = agenda_of(study, searches).plan({one.search.name: found})
    rates = {
        row.arm.name: [one.hyperparameters.learning_rate for one in row.trainings.values()]
        for row in plan.rows
    }
    assert rates == {
        "spatial": [0.03],
        "temporal": [0.03],
        "two-stream": [0.03, 0.0123],
        "two-stream-awf-l2": [0.0123, 0.0123],
    }
    assert len(plan.trainings) == 2, "each trial's, with both streams"
    assert most_trainings(study) == 3 + 3, "three arms read each stream"
    (note,) = (row.tuned for row in plan.rows if row.arm.name == "two-stream")
    assert note == {
        "trial": {"spatial": 0, "temporal": 1},
        "candidates": 4,
        "choice_validation_top1": 0.4,
    }


def test_most_trainings_are_those_of_the_worst_of_all_choices(
    tiny_store: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"arms": ("spatial", "two-stream", "two-stream-awf-l2"), "trials": 2}
    study = study_of(tiny_store, tmp_path, tuning="own", seeds=1, **asked)
    searches = searches_of(study)
    (one,) = searches.values()
    agenda = agenda_of(study, searches)
    plans = []
    for alone, *pairs in product((0, 1), repeat=5):
        both = [dict(zip(("spatial", "temporal"), pairs[i : i + 2], strict=True)) for i in (0, 2)]
        chosen = {
            "two_stream": both[0],
            "two_stream_awf_l2": both[1],
            "spatial": {"spatial": alone},
        }
        plans.append(agenda.plan({one.search.name: found_by(searches, "two-stream", **chosen)}))
    assert most_trainings(study) == max(len(plan.trainings) for plan in plans) == 2

    objectives = {one.search.name: objective_of(study, key) for key, one in searches.items()}
    start = look(agenda, Ledger(ResultStore(tmp_path), objectives, checkpoints=study.checkpoints))
    untuned = study.plan()
    left = list(work_left(study, agenda, start, untuned=untuned))
    most = {piece.most for piece in left if piece.phase != "search"}
    streams = [sum(len(one.options["streams"]) for one in p.trainings.values()) for p in plans]
    assert most == {max(streams) / 2}, "in trainings of both streams"
    assert {piece.most for piece in left if piece.phase == "search"} == {1}
