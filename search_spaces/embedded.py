"""What every system is run with on the embedded dataset's small clips."""

from search_spaces.space import Settings

__all__ = ["EMBEDDED"]

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
