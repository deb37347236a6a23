"""Choosing trials by an arm's own fusion: what is chosen, and that the choice generalises."""

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import softmax

from study.choices import choose_trials
from study.scores import Scores

CLASSES, VIDEOS, GROUP = 4, 120, 3
STREAMS = ("spatial", "temporal")
GROUPS = {f"v{i}": f"g{i // (CLASSES * GROUP)}/{i % CLASSES}" for i in range(2000)}


class Trials:
    """Trials whose streams know the classes to given degrees.

    Half of what a stream gets wrong is the video's fault, so that trials fail on the same videos.

    Args:
        signals: (trials, streams) how much each trial's stream knows.
        rng: Draws videos and scores.
    """

    def __init__(self, signals: np.ndarray, rng: np.random.Generator) -> None:
        self.signals, self.rng = signals, rng

    def scores(self, videos: int) -> dict[int, Scores]:
        labels = np.arange(videos) % CLASSES
        known = np.eye(CLASSES)[labels]
        fault = self.rng.normal(size=(len(STREAMS), videos, CLASSES))

        def logits(trial: int, stream: int) -> np.ndarray:
            own = self.rng.normal(size=(videos, CLASSES))
            return self.signals[trial, stream] * known + (fault[stream] + own) / 2**0.5

        return {
            trial: Scores(
                videos=[f"v{i}" for i in range(videos)],
                labels=labels,
                scores={
                    name: softmax(logits(trial, stream), axis=1).astype(np.float32)
                    for stream, name in enumerate(STREAMS)
                },
                features={},
            )
            for trial in range(len(self.signals))
        }


def average_top1(scores: Mapping[int, Scores], pick: Mapping[str, int]) -> float:
    fused = sum(scores[number].scores[stream] for stream, number in pick.items())
    return float((np.argmax(fused, axis=1) == scores[0].labels).mean())


@pytest.mark.parametrize("apart", [True, False])
def test_the_best_candidate_is_chosen_the_earliest_of_equals(apart: bool) -> None:
    signals = np.array([[0.0, 9.0], [9.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    scores = Trials(signals, np.random.default_rng(0)).scores(VIDEOS)
    chosen = choose_trials("temporal", scores, apart=apart, groups=GROUPS)
    assert (chosen.trials, chosen.candidates) == ({"temporal": 0}, 4)
    assert chosen.top1 == 1
    chosen = choose_trials("spatial", scores, apart=apart, groups=GROUPS)
    assert chosen.trials == {"spatial": 1}
    unlike = np.array([[0.0, 3.0], [3.0, 0.0]])
    scores = Trials(unlike, np.random.default_rng(0)).scores(VIDEOS)
    for fusion in ("average", "early", "awf-entropy"):  # the average stands in for the second
        chosen = choose_trials(fusion, scores, apart=apart, groups=GROUPS)
        assert chosen.candidates == (4 if apart else 2)
        if apart:
            assert chosen.trials == {"spatial": 1, "temporal": 0}


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_a_choice_among_pairs_costs_no_test_accuracy_and_its_accuracy_is_not_optimistic(
    spread: float,
) -> None:
    """By simulation, against the choice of one trial for both streams."""
    rng = np.random.default_rng(1)
    gain, optimism, naive = [], [], []
    for _ in range(40):
        trials = Trials(1 + spread * rng.normal(size=(8, 2)), rng)
        held_out, fresh = trials.scores(VIDEOS), trials.scores(2000)
        pair = choose_trials("average", held_out, apart=True, groups=GROUPS)
        both = choose_trials("average", held_out, apart=False, groups=GROUPS)
        assert pair.candidates == 64
        reached = average_top1(fresh, pair.trials)
        gain.append(reached - average_top1(fresh, both.trials))
        optimism.append(pair.top1 - reached)
        naive.append(average_top1(held_out, pair.trials) - reached)
    error = np.std(gain, ddof=1) / len(gain) ** 0.5
    assert np.mean(gain) > -3 * error
    assert spread < 1 or np.mean(gain) > 2 * error, (
        "each stream's own is better where trials differ"
    )
    error = np.std(optimism, ddof=1) / len(optimism) ** 0.5
    assert abs(np.mean(optimism)) < 4 * error
    assert np.mean(naive) > np.mean(optimism) + 0.01
