"""Settings to start from, by name: what a study takes in the place of its space's own."""

from collections.abc import Mapping

from search_spaces.space import Settings

__all__ = ["RECIPES"]

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
}
"""``paper`` keeps the space's settings, as its paper has them. ``small`` (ours) is for hundreds of
videos, on which a paper's batches leave a step or two in an epoch. The search begins with it."""
