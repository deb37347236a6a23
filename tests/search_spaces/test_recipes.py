"""Recipes: a paper's schedule in iterations."""

import pytest

import search_spaces
from search_spaces.recipes import in_iterations
from study.training.hyperparameters import Hyperparameters
from study.training.loop import learning_rate


@pytest.mark.parametrize(
    ("dataset", "videos", "every"), [("ucf101", 9537, 10_000), ("hmdb51", 3570, 5_000)]
)
def test_iterations_are_those_that_the_paper_prints(dataset: str, videos: int, every: int) -> None:
    space = search_spaces.get("stilt")
    settings = space.settings.updated(in_iterations(space, dataset, videos=videos, batch_size=128))
    hyperparameters = Hyperparameters.of(settings.hyperparameters)
    steps = -(-videos // 128)
    total = hyperparameters.epochs * steps
    assert total == pytest.approx(50_000, abs=steps / 2)
    for iteration in (0, every - steps, every + steps, 2 * every + steps, 50_000 - steps):
        rate = learning_rate(hyperparameters, iteration, steps)
        assert rate == pytest.approx(1e-3 * 0.1 ** (iteration // every))


def test_a_space_whose_paper_prints_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'comparators' says none; give --recipe paper"):
        in_iterations(search_spaces.get("comparators"), "ucf101", videos=1, batch_size=1)
