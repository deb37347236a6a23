import optuna
import pytest
from optuna.trial import TrialState

from study.cluster.queue import _take_up

FIRST = {"learning_rate": 0.01}


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def begin(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
    return trial


def end(study: optuna.Study, state: TrialState) -> float:
    """A trial that ends in a state; returns its learning rate."""
    trial = begin(study)
    study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    return trial.params["learning_rate"]


def queued(study: optuna.Study) -> list[float]:
    """The learning rates that will be tried before anything new is proposed."""
    waiting = study.get_trials(states=(TrialState.WAITING,))
    return [begin(study).params["learning_rate"] for _ in waiting]


def test_a_new_search_begins_with_the_first_values(study: optuna.Study):
    assert _take_up(study, FIRST) == 0
    assert queued(study) == [0.01]


def test_what_a_killed_run_left_is_tried_again_and_does_not_count(study: optuna.Study):
    end(study, TrialState.COMPLETE)
    left = begin(study).params["learning_rate"]
    assert _take_up(study, FIRST) == 1
    assert _take_up(study, FIRST) == 1  # killed again before any trial began
    assert queued(study) == [left]


def test_a_failed_trial_counts_beside_one_that_did_not_fail(study: optuna.Study):
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE):
        end(study, state)
    assert _take_up(study, FIRST) == 3
    assert queued(study) == []


def test_a_failure_that_was_tried_again_does_not_count_twice(study: optuna.Study):
    failed = [end(study, TrialState.FAIL) for _ in range(3)]
    assert _take_up(study, FIRST) == 0
    assert end(study, TrialState.COMPLETE) == failed[0]
    assert _take_up(study, FIRST) == 1  # killed after the first of them
    assert queued(study) == failed[1:]


def test_trials_that_failed_without_exception_are_all_tried_again(study: optuna.Study):
    failed = [end(study, TrialState.FAIL) for _ in range(3)]
    assert _take_up(study, FIRST) == 0
    assert _take_up(study, FIRST) == 0
    assert queued(study) == failed
