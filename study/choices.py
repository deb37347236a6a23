"""How an arm chooses among a search's trials by its own fusion, from stored scores alone."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from models.fusion import FUSIONS, LAMBDAS, chosen_without
from study.results.rows import validation_right
from study.scores import Scores
from study.search import Chosen, Trial

__all__ = ["best_trials", "choose_trials"]

MOST_CHOICES = 24
"""Ours: an arm chooses among so many of the best complete trials, whose pairs are 576."""


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the complete trials that arms choose among, the best of the search first."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return sorted(complete, key=lambda trial: -trial.readings[max(trial.readings)])[:MOST_CHOICES]


def choose_trials(
    fusion: str,
    trials: Mapping[int, Scores],
    *,
    apart: bool,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> Chosen:
    """Returns the trials whose scores are best under a fusion on the validation part.

    A fusion that fits weights is judged by cross-fitting over source groups, at each λ where none
    is given, and the candidate with most right videos over all folds is chosen, the earliest of
    those that tie. That many candidates make its accuracy optimistic; the accuracy returned is of
    choices that were each made without the fold that it is judged on.

    Args:
        fusion: A name in ``models.fusion.FUSIONS``. The plain average stands in for one that reads
            features, which aren't stored of trials.
        trials: Validation scores by the trial's number; the same videos in each.
        apart: Whether streams train independently: then N trials offer N² pairs.
        groups: Each video's source video.
        fusion_lambda: λ, or None where the arm chooses its own.
    """
    entry = FUSIONS[fusion]
    first = next(iter(trials.values()))
    streams = tuple(first.scores) if entry.stream is None else (entry.stream,)
    numbers = sorted(trials)
    picks = list(
        product(numbers, repeat=len(streams))
        if apart
        else ((number,) * len(streams) for number in numbers)
    )
    lambdas = LAMBDAS if entry.takes_lambda and fusion_lambda is None else (fusion_lambda,)
    right = np.stack(
        [
            validation_right(fusion, scores, groups=groups, fusion_lambda=one)
            for scores in (_of_trials(trials, streams, pick) for pick in picks)
            for one in lambdas
        ]
    )  # (K, V)
    apart_from = chosen_without(right, first.labels, [groups[video] for video in first.videos])
    return Chosen(
        trials=dict(zip(streams, picks[right.sum(axis=1).argmax() // len(lambdas)], strict=True)),
        candidates=len(picks),
        top1=float(right[apart_from, np.arange(len(apart_from))].mean()),
    )


def _of_trials(
    trials: Mapping[int, Scores], streams: tuple[str, ...], pick: tuple[int, ...]
) -> Scores:
    """Returns each stream's scores as the trial picked for it has them."""
    any_trial = trials[pick[0]]
    return Scores(
        videos=any_trial.videos,
        labels=any_trial.labels,
        scores={s: trials[number].scores[s] for s, number in zip(streams, pick, strict=True)},
        features={},
    )
