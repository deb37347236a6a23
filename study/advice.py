"""What whoever starts a study should know of its data and settings before it runs."""

import math

from study.data.datasets.catalog import list_datasets
from study.plan import Plan
from study.request import Study

__all__ = ["warnings_of"]

FEW_STEPS = 10  # of the optimiser in an epoch: with fewer, little is learned in a paper's epochs


def warnings_of(study: Study, plan: Plan) -> list[str]:
    """Returns what may spoil the study's answer, with what to do about it; a line each."""
    return [*_unknown_sources(study), *_few_steps(study, plan)]


def _unknown_sources(study: Study) -> list[str]:
    """A dataset of one's own that was prepared without groups."""
    annotations = study.store.annotations
    own = annotations.dataset == "folder" or annotations.dataset not in list_datasets()
    if not own or annotations.has_groups:
        return []
    return [
        f"{annotations.dataset} was prepared without --group: clips cut from one source may stand "
        "on both sides of the split, and of train and validation, which makes accuracies too high"
    ]


def _few_steps(study: Study, plan: Plan) -> list[str]:
    """Trainings of fewer than `FEW_STEPS` steps an epoch, those of one size in one line."""
    sizes = {
        (len(study.parts_of(one).train), one.hyperparameters.batch_size): None
        for one in plan.trainings.values()
    }
    found = []
    for videos, batch_size in sizes:
        steps = math.ceil(videos / batch_size)
        if steps < FEW_STEPS:
            enough = 2 ** int(math.log2(max(1, videos // FEW_STEPS)))
            found.append(
                f"an epoch has {steps} step{'s' if steps > 1 else ''} only, and should have "
                f"{FEW_STEPS} or more: {videos} train videos in batches of {batch_size}; give "
                f"--recipe small, or --set batch_size={enough} learning_rate=RATE"
            )
    return found
