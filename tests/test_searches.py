"""Which searches a study makes, and whom they serve."""

from pathlib import Path
from typing import Any

import pytest

from search_spaces.space import Choice, Real
from study.agenda import ArmSearch, Finished, Found, next_jobs
from study.plan import Target
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.search import Trial
from study.searches import agenda_of, searches_of
from tests.sample_results import PROTOCOL, write_protocol
from tests.test_conduct import Runner, study_of

RATE = Real(name="learning_rate", low=1e-3, high=1e-2, log=True)


def only_search(study: Study) -> ArmSearch:
    (one,) = searches_of(study).values()
    return one


def names(study: Study) -> set[str]:
    return {parameter.name for parameter in only_search(study).search.parameters}


def test_the_first_trial_is_the_training_that_is_not_tuned(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path)
    one = only_search(study)
    untuned = study.trial(study.space.arm(study.space.search_arm), study.targets[0], {})
    first = one.search.first
    assert first["learning_rate"] == untuned.hyperparameters.learning_rate
    assert first["options.attention_dim"] == untuned.options["attention_dim"] == 256
    assert first["fusion_lambda"] == first["loss_weights.spatial"] == 1.0
    assert set(first) == names(study)
    outlook = next_jobs(agenda_of(study, searches_of(study)), Finished())
    trial = outlook.searches[one.search.name][0]
    assert trial.values == first
    # A first value outside of the searched range is proposed by the sampler instead.
    low = study_of(tiny_store, tmp_path, parameters=(_rate(1e-6, 1e-5),))
    assert set(only_search(low).search.first) == names(low) - {"learning_rate"}


def _rate(low: float, high: float) -> Real:
    return Real(name="learning_rate", low=low, high=high, log=True)


def test_a_shared_search_serves_all_arms_and_an_own_one_its_arm(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("spatial", "two-stream", "stil")
    shared = searches_of(study_of(tiny_store, tmp_path, arms=arms))
    assert [(arm, one.arms) for (_, arm), one in shared.items()] == [("stil-awf-simplex", arms)]
    own = searches_of(study_of(tiny_store, tmp_path, arms=arms, tuning="own"))
    assert [(arm, one.arms) for (_, arm), one in own.items()] == [(arm, (arm,)) for arm in arms]
    searched = {
        arm: {parameter.name for parameter in one.search.parameters}
        for (_, arm), one in own.items()
    }
    assert "options.attention_dim" in searched["stil"]
    assert "options.attention_dim" not in searched["two-stream"], "it has no attention"
    assert all("fusion_lambda" not in found for found in searched.values()), "all of them average"
    for none in ({"tuning": "fixed"}, {"trials": 0}):
        assert not searches_of(study_of(tiny_store, tmp_path, **none))


def test_what_is_set_is_not_searched(tiny_store: Path, tmp_path: Path) -> None:
    free = study_of(tiny_store, tmp_path)
    pinned = study_of(tiny_store, tmp_path, changes={"learning_rate": 0.02})
    assert names(free) - names(pinned) == {"learning_rate"}
    one = only_search(pinned)
    assert one.make_training(one.search.first).hyperparameters.learning_rate == 0.02


def test_search_replaces_a_parameter_or_adds_one(tiny_store: Path, tmp_path: Path) -> None:
    before = names(study_of(tiny_store, tmp_path))
    momentum = Choice(name="momentum", choices=(0.8, 0.9))
    one = only_search(study_of(tiny_store, tmp_path, parameters=(RATE, momentum)))
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
        return only_search(study_of(tiny_store, tmp_path, **asked)).search.name

    same = [name(), name(trials=20), name(seeds=5), name(at_once=2), name(max_hours=1.0)]
    assert len(set(same)) == 1, "more trials extend a search"
    others = [
        name(),
        name(parameters=(RATE,)),
        name(changes={"learning_rate": 0.02}),
        name(changes={"batch_size": 4}),
        name(changes={"epochs": 18}),
        name(sampler="qmc"),
        name(lag=4),
        name(tuning="own", arms=("stil",)),
        name(tuning="own", arms=("stil-weighted",)),
    ]
    assert len(set(others)) == len(others)


def older_trial(results: Path, **changes: Any) -> None:
    """Writes a complete trial of study ``older``."""
    values = {
        "learning_rate": 0.01,
        "fusion_lambda": 1.0,
        "options.attention_dim": 256,
        "loss_weights.spatial": 1.0,
        "loss_weights.temporal": 1.0,
        **changes.pop("values", {}),
    }
    line = {
        "study": "older",
        "arm": "stil-awf-simplex",
        "protocol": PROTOCOL,
        "dataset": "folder",
        "split": "1",
        "trial": 0,
        "training_id": "t",
        "parameters": canonical_json(values),
        "validation_top1": 0.5,
        "state": "complete",
        "epochs": 9,
        "seconds": 1.0,
        **changes,
    }
    key = canonical_json([line[name] for name in ("study", "arm", "dataset", "split", "trial")])
    store = ResultStore(results)
    store.write("trials", key, [line])
    write_protocol(store, line["study"], dataset=line["dataset"])


def test_a_warm_start_knows_the_older_trials_of_this_arm_dataset_and_split_alone(
    tiny_store: Path, tmp_path: Path
) -> None:
    split = study_of(tiny_store, tmp_path).targets[0].split
    older_trial(tmp_path, split=split, trial=1, validation_top1=0.625)
    older_trial(tmp_path, split=split, trial=0, values={"learning_rate": 0.02})
    older_trial(tmp_path, split=split, trial=2, values={"learning_rate": 0.5})  # out of range
    older_trial(tmp_path, split=split, trial=3, state="pruned")
    older_trial(tmp_path, split="another")
    older_trial(tmp_path, split=split, arm="stil")
    older_trial(tmp_path, split=split, dataset="ucf101")
    older_trial(tmp_path, split=split, study="other")
    one = only_search(study_of(tiny_store, tmp_path, warm_start="older"))
    assert [(values["learning_rate"], top1) for values, top1 in one.search.prior] == [
        (0.02, 0.5),
        (0.01, 0.625),
    ]
    cold = only_search(study_of(tiny_store, tmp_path))
    assert (cold.search.prior, cold.search.name != one.search.name) == ((), True)


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "another"},
        {"arm": "stil"},
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
    with pytest.raises(ValueError, match=r"--warm-start older: of its \d complete trials of stil"):
        searches_of(study_of(tiny_store, tmp_path, warm_start="older"))


def test_a_study_starts_warm_from_one_that_ran(tiny_store: Path, tmp_path: Path) -> None:
    Runner(study_of(tiny_store, tmp_path, seeds=1), 2).run()
    complete = ResultStore(tmp_path).read("trials", state="complete").num_rows
    one = only_search(study_of(tiny_store, tmp_path, warm_start="fake"))
    assert len(one.search.prior) == complete > 0


def test_arms_that_one_training_could_serve_come_in_together(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("spatial", "temporal", "two-stream", "stil", "stil-weighted")
    study = study_of(tiny_store, tmp_path, tuning="own", arms=arms, seeds=1)
    searches = searches_of(study)
    agenda = agenda_of(study, searches)
    name = {arm: one.search.name for (_, arm), one in searches.items()}

    def planned(*done: str, lost: tuple[str, ...] = ()) -> set[str]:
        found: dict[str, Found | None] = {name[arm]: _found(searches, arm) for arm in done}
        found.update(dict.fromkeys((name[arm] for arm in lost), None))
        return {row.arm.name for row in agenda.plan(found).rows}

    plain, stil = {"spatial", "temporal", "two-stream"}, {"stil", "stil-weighted"}
    assert planned() == planned("spatial", "two-stream") == planned("stil") == set()
    assert planned(*plain) == plain, "one net without STIL serves these three"
    assert planned(*stil, "spatial") == stil
    assert planned(*plain, *stil) == plain | stil
    assert planned("spatial", "temporal", lost=("two-stream",)) == {"spatial", "temporal"}


def _found(searches: dict[tuple[Target, str], ArmSearch], arm: str) -> Found:
    (one,) = (one for (_, name), one in searches.items() if name == arm)
    trial = Trial(
        number=0, values=one.search.first, state="complete", readings={9: 0.5}, next_rung=None
    )
    return Found(trial=trial, trials=(trial,))


def test_what_an_own_search_found_is_what_its_arm_trains_with(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, tuning="own", arms=("stil",), seeds=2)
    searches = searches_of(study)
    (one,) = searches.values()
    found = _found(searches, "stil")
    best = Found(
        trial=Trial(
            number=1,
            values={**found.values, "learning_rate": 0.0123, "options.attention_dim": 64},
            state="complete",
            readings={9: 1.0},
            next_rung=None,
        ),
        trials=found.trials,
    )
    plan = agenda_of(study, searches).plan({one.search.name: best})
    assert {
        (one.hyperparameters.learning_rate, one.options["attention_dim"], one.seed)
        for one in plan.trainings.values()
    } == {(0.0123, 64, 0), (0.0123, 64, 1)}
