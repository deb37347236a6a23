"""Settings to start from, by name: what a study takes in the place of its space's own."""

import math
from collections.abc import Mapping

from search_spaces.space import Settings, Space

__all__ = ["RECIPES", "in_iterations"]

RECIPES: Mapping[str, Settings] = {
    "paper": Settings(),
    "small": Settings(
        options={"dropout": 0.0, "attention_dropout": 0.0},
        hyperparameters={
            "learning_rate": 0.02,
            "batch_size": 16,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "clip_norm": 5.0,
        },
    ),
    "iterations": Settings(hyperparameters={"schedule": "step"}),
}
"""``paper`` keeps the space's settings, as its paper has them. ``small`` (ours) is for hundreds of
videos, on which a paper's batches leave a step or two in an epoch. The search begins with it.
``iterations`` trains as long as the paper prints, by `in_iterations`."""


def in_iterations(space: Space, dataset: str, *, videos: int, batch_size: int) -> Settings:
    """Returns epochs and milestones that are a paper's schedule in iterations.

    Args:
        space: The space.
        dataset: The dataset's name.
        videos: Its train videos.
        batch_size: Videos of an iteration.

    Returns:
        The nearest number of whole epochs, and the fractions of them at which the rate falls.

    Raises:
        ValueError: If the space's paper prints no iterations.
    """
    if not space.iterations:
        raise ValueError(
            f"--recipe iterations needs a space whose paper prints them, and {space.name!r} says "
            "none; give --recipe paper"
        )
    every, total = space.iterations.get(dataset, space.iterations[""])
    epochs = max(1, round(total / math.ceil(videos / batch_size)))
    falls = range(every, total, every)
    return Settings(
        hyperparameters={"epochs": epochs, "milestones": tuple(fall / total for fall in falls)}
    )
