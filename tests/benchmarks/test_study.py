from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import study as benchmark
from benchmarks.study import ARMS, busy_share, replay, seconds_of
from search_spaces.space import Real
from study.agenda import Agenda, ArmSearch
from study.plan import Plan, Training
from study.search import Search
from study.searches import agenda_of, searches_of
from tests.test_conduct import study_of


def test_a_stil_epoch_is_paid_at_the_price_of_stil():
    work = Counter(
        {
            ("search", "stil"): 10,
            ("reported", "stil"): 4,
            ("reported", "spatial"): 2,
            ("search", "jobs"): 1000,
        }
    )
    pace = {"spatial": 1.0, "temporal": 100.0, "two-stream": 100.0, "stil": 3.0}
    assert seconds_of(work, pace, ("search",)) == 30
    assert seconds_of(work, pace, ("search", "reported")) == 30 + 12 + 2


def test_a_place_that_waits_for_the_last_job_is_not_busy():
    assert busy_share([(10.0, 14.0), (10.0, 12.0)], 2) == 6 / 8
    assert busy_share([(0.0, 1.0), (3.0, 4.0)], 1) == 0.5


def training_of(values: Mapping[str, Any]) -> Training:
    name = str(values)
    return cast(
        Training,
        SimpleNamespace(
            training_id=name,
            scoring_id=name,
            options={"interaction": True},
            starts={},
            hyperparameters=SimpleNamespace(epochs=9),
        ),
    )


@pytest.mark.parametrize(("step", "epochs"), [(0, 5 * 9), (1, 5 * 9), (-1, 3 * 9 + 2 * 1)])
def test_pruned_trials_count_with_the_epochs_that_they_trained(monkeypatch, step, epochs):
    # Among fewer than 4 none is pruned; of the 4th and 5th the best 2 of all go on.
    order: dict[str, int] = {}
    monkeypatch.setattr(
        benchmark,
        "drawn_value",
        lambda draw, key, share: step * order.setdefault(key, len(order)),
    )
    one = ArmSearch(
        search=Search(
            name="s",
            parameters=(Real(name="rate", low=0.0, high=1.0),),
            trials=5,
            rungs=(1, 3, 9),
        ),
        make_training=training_of,
        arms=(),
        target="",
    )
    agenda = Agenda(
        searches=(one,),
        plan=lambda found: Plan(rows=(), trainings={}),
        parts=lambda row, training: (),
    )
    assert replay(agenda) == {
        ("search", "stil"): epochs,
        ("search", "jobs"): 5,
        ("reported", "jobs"): 0,
    }


def work_of(store: Path, folder: Path, arms: tuple[str, ...], **asked: Any) -> Counter:
    study = study_of(store, folder, arms=arms, **asked)
    return replay(agenda_of(study, searches_of(study)))


def test_sixteen_arms_alone_take_sixteen_trainings_a_seed_and_together_two(tiny_store, tmp_path):
    alone = sum(
        (work_of(tiny_store, tmp_path, (arm,), trials=0, seeds=1) for arm in ARMS), Counter()
    )
    assert len(ARMS) == 16
    assert alone == {
        ("reported", "spatial"): 9,
        ("reported", "temporal"): 9,
        ("reported", "two-stream"): 7 * 9,
        ("reported", "stil"): 7 * 9,
        ("reported", "jobs"): 16,
    }
    together = work_of(tiny_store, tmp_path, ARMS, trials=0, seeds=3)
    assert +together == {
        ("reported", "two-stream"): 3 * 9,
        ("reported", "stil"): 3 * 9,
        ("reported", "jobs"): 6,
    }


def test_own_tuning_takes_at_most_a_training_for_each_trial_that_arms_can_choose(
    tiny_store, tmp_path
):
    searches = {("search", "two-stream"): 27, ("search", "stil"): 27, ("search", "jobs"): 6}
    net = work_of(tiny_store, tmp_path, ARMS, trials=3, seeds=1, tuning="net")
    assert net == searches | {
        ("reported", "two-stream"): 9,
        ("reported", "stil"): 9,
        ("reported", "jobs"): 2,
    }
    own = work_of(tiny_store, tmp_path, ARMS, trials=3, seeds=1, tuning="own")
    assert own == searches | {
        ("reported", "two-stream"): 27,
        ("reported", "stil"): 27,
        ("reported", "jobs"): 6,
    }
