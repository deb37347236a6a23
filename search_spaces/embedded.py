"""What every system is run with on the embedded dataset's small clips."""

from dataclasses import replace

from search_spaces.space import Settings, Space

__all__ = ["EMBEDDED", "fit_to_embedded"]

EMBEDDED = Settings(
    options={"backbone": "small"},
    hyperparameters={
        "learning_rate": 0.02,
        "batch_size": 32,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "epochs": 20,
        "scales": (1.0,),
        "flow_length": 4,
        "clip_norm": 5.0,
    },
)


def fit_to_embedded(space: Space, changes: Settings | None = None) -> Space:
    """Returns the space with the settings that small clips need.

    Args:
        space: The space as it is on a real dataset.
        changes: What the system needs in addition to `EMBEDDED`, or in its place.
    """
    small = EMBEDDED if changes is None else EMBEDDED.updated(changes)
    return replace(space, settings=space.settings.updated(small))
