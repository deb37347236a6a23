import math

import pytest

from study.cluster.resources import Resources, loader_workers_on, trainings_at_once


def test_one_worker_takes_its_resources_from_tune_and_several_from_ray_train():
    assert Resources(gpus_per_worker=1).of_driver == {"cpu": 1, "gpu": 1}
    several = Resources(workers=4, cpus_per_worker=2, gpus_per_worker=1)
    assert several.of_driver["cpu"] < 0.1
    assert several.of_worker == {"CPU": 2, "GPU": 1}
    assert several.total == {"CPU": 8, "GPU": 4}


@pytest.mark.parametrize(
    ("resources", "nodes", "fitting"),
    [
        (Resources(), [{"CPU": 2}], 2),
        (Resources(cpus_per_worker=0.9), [{"CPU": 2}], 2),
        (Resources(workers=2, cpus_per_worker=0.9), [{"CPU": 2}], 1),
        (Resources(workers=2), [{"CPU": 2}], 0),  # the driver needs a little too
        (Resources(gpus_per_worker=1), [{"CPU": 64}], 0),
        (Resources(gpus_per_worker=1), [{"CPU": 64, "GPU": 8}], 8),
        (Resources(gpus_per_worker=0.25), [{"CPU": 64, "GPU": 1}], 4),
        (Resources(workers=4, gpus_per_worker=1), [{"CPU": 64, "GPU": 8}], 2),
        (Resources(workers=2, cpus_per_worker=1.5), [{"CPU": 2}, {"CPU": 2}], 1),  # one on each
        (Resources(workers=3), [{"CPU": 2}, {"CPU": 2}], 1),
        (Resources(cpus_per_worker=3), [{"CPU": 2}, {"CPU": 2}], 0),  # a worker isn't divided
        (Resources(gpus_per_worker=1), [{"CPU": 64}, {"CPU": 1, "GPU": 4}], 1),
    ],
)
def test_as_many_trainings_run_at_once_as_the_nodes_hold(resources, nodes, fitting):
    assert trainings_at_once(resources, nodes) == fitting


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, "--workers must be a whole number of at least 1"),
        ({"workers": 10**11}, "--workers must be .* at most 10000"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker must be a number of at least 0.01"),
        ({"cpus_per_worker": math.nan}, "--cpus-per-worker must be .*, got nan"),
        ({"cpus_per_worker": math.inf}, "--cpus-per-worker must be .*, got inf"),
        ({"gpus_per_worker": -1}, "--gpus-per-worker must be a number of at least 0"),
        ({"gpus_per_worker": math.nan}, "--gpus-per-worker must be .*, got nan"),
        ({"gpus_per_worker": 2}, "got 2; give more --workers instead"),
    ],
)
def test_impossible_resources_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Resources(**arguments)


@pytest.mark.parametrize(
    ("node", "resources", "at_once", "loaders"),
    [
        ({"CPU": 64}, Resources(), 64, 0),
        ({"CPU": 64, "GPU": 8}, Resources(), 8, 0),  # it trains on the CPU
        ({"CPU": 32, "GPU": 8}, Resources(gpus_per_worker=1), 8, 3),
        ({"CPU": 32, "GPU": 8}, Resources(gpus_per_worker=1, workers=4), 2, 3),
        ({"CPU": 32, "GPU": 8}, Resources(gpus_per_worker=1), 4, 7),
        ({"CPU": 32, "GPU": 8}, Resources(gpus_per_worker=1), 1, 8),
        ({"CPU": 16, "GPU": 1}, Resources(gpus_per_worker=0.25), 4, 3),
        ({"CPU": 4, "GPU": 4}, Resources(gpus_per_worker=1), 4, 1),
    ],
)
def test_loaders_share_the_nodes_cores_among_its_trainings(node, resources, at_once, loaders):
    assert loader_workers_on(node, resources, at_once=at_once) == loaders
