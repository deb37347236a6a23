import random

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from benchmarks.search import stopped_by_asha


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_a_trial_is_stopped_where_ray_tune_stops_it(eta):
    rng = random.Random(eta)
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="top1",
        mode="max",
        max_t=100,
        grace_period=1,
        reduction_factor=eta,
    )
    recorded: list[float] = []
    stops = 0
    for number in range(40):
        value = rng.choice((0.25, 0.5, 0.75, rng.random()))  # ties too
        trial = Trial("stub", stub=True, trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        decision = scheduler.on_trial_result(None, trial, {"epoch": 1, "top1": value})

        stopped = stopped_by_asha(value, recorded, eta)
        assert stopped == (decision == TrialScheduler.STOP)
        recorded.append(value)
        stops += stopped
    assert 0 < stops < 40
