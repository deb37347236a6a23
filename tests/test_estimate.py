"""How long a study takes: against sums by hand, a simulation, and the plan's own jobs."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from study.data.datasets.annotations import Video
from study.data.datasets.parts import Parts
from study.estimate import (
    JOB_SECONDS,
    START_SECONDS,
    Pace,
    Paces,
    Work,
    epoch_passes,
    estimate,
    expected_epochs,
    expected_jobs,
    gflops_of,
    longest_chain,
    scoring_passes,
    work_left,
)
from study.ledger import Ledger, look
from study.plan import Training
from study.results.store import ResultStore
from study.search import Readings, Search, trials_of
from study.searches import agenda_of, objective_of, searches_of
from tests.fake_jobs import run_fake_job
from tests.test_conduct import study_of
from tests.test_search import PARAMETERS


def parts(train: int, validation: int, test: int) -> Parts:
    def videos(count: int) -> tuple[Video, ...]:
        return tuple(Video(name=f"{n}", path=f"{n}", label=0, group=f"{n}") for n in range(count))

    return Parts(train=videos(train), validation=videos(validation), test=videos(test), missing=0)


def trainings(store: Path, results: Path, **changes: object) -> list[Training]:
    study = study_of(store, results, trials=0, tuning="fixed", seeds=1, changes=changes)
    return list(study.plan().trainings.values())


def test_passes_are_segments_through_the_network(tiny_store: Path, tmp_path: Path) -> None:
    views = {"segments": 2, "test_segments": 2, "test_clips": 3, "test_crops": "ten"}
    one = trainings(tiny_store, tmp_path, **views)[0]
    counts = parts(10, 4, 5)
    # 10 videos forward and backward (3 passes), 4 forward, of 2 segments each.
    assert epoch_passes(one, counts) == 2 * (3 * 10 + 4)
    # 2 segments × 3 clips × 10 crops are 60 passes of a video, in every part.
    assert scoring_passes(one, counts, ["test"]) == 5 * 60
    assert scoring_passes(one, counts, ["train", "validation", "test"]) == 10 * 60 + 9 * 60
    alike = replace(
        one, hyperparameters=replace(one.hyperparameters, test_clips=1, test_crops="centre")
    )
    assert scoring_passes(alike, counts, ["validation", "test"]) == 5 * 2, "its rung has the rest"


def test_a_trial_trains_as_long_as_trials_of_random_values_do() -> None:
    search = Search(name="s", parameters=PARAMETERS, trials=40, rungs=(3, 9, 27), sampler="random")
    epochs, jobs = [], []
    for seed in range(60):
        rng = random.Random(seed)
        known: dict[str, dict[int, float]] = {}

        def readings(
            values: object, rng: random.Random = rng, known: dict[str, dict[int, float]] = known
        ) -> Readings:
            drawn = {epoch: rng.random() for epoch in (3, 9, 27)}
            return Readings(values=known.setdefault(repr(values), drawn))

        trials = trials_of(search, readings)
        epochs += [max(trial.readings) for trial in trials]
        jobs += [len(trial.readings) for trial in trials]
    assert sum(epochs) / len(epochs) == pytest.approx(expected_epochs(search), rel=0.1)
    assert sum(jobs) / len(jobs) == pytest.approx(expected_jobs(search), rel=0.1)


def test_four_trials_are_counted_by_hand() -> None:
    search = Search(name="s", parameters=PARAMETERS, trials=4, rungs=(1, 3), sampler="random")
    # Of 1, 2 and 3 trials all go on; of 4, the fourth does where it is of the best ⌈4/3⌉ = 2.
    assert expected_epochs(search) == pytest.approx(1 + (3 + 2 / 4) / 4 * 2)
    assert expected_epochs(search, reached=1, next_rung=3) == 2
    assert expected_jobs(search) == pytest.approx(1 + 3.5 / 4)


def test_time_is_passes_times_pace_by_phase_and_divided_by_the_places(
    tiny_store: Path, tmp_path: Path
) -> None:
    one, other = trainings(tiny_store, tmp_path)
    paces = {one.training_id: Pace(seconds=(0.1, 0.2), source="measured"), other.training_id: None}
    work = [
        Work(phase="search", training=one, passes=1000, jobs=2),
        Work(phase="search", training=one, passes=500, jobs=1),
        Work(phase="scoring", training=one, passes=10),
        Work(phase="trainings", training=other, passes=999, jobs=1),
    ]

    def pace(training: Training) -> Pace | None:
        return paces[training.training_id]

    alone = estimate(work, pace)
    assert alone.phases == {"search": (150, 300), "scoring": (1, 2)}
    fixed = START_SECONDS + 3 * JOB_SECONDS
    assert alone.wall == pytest.approx((fixed + 151, fixed + 302))
    assert alone.unknown == (other,)
    two = estimate(work, pace, workers=4, at_once=2, chain=(20.0, 40.0))
    assert two.phases == alone.phases, "processes divide a training, and take as long together"
    low, high = ((seconds / 4 + 3 * JOB_SECONDS) / 2 for seconds in (151, 302))
    assert two.wall == pytest.approx(
        (START_SECONDS + max(low, 20.0), START_SECONDS + high + 40.0 / 2)
    )


def test_what_may_come_to_more_counts_at_the_upper_end_alone(
    tiny_store: Path, tmp_path: Path
) -> None:
    (one, _) = trainings(tiny_store, tmp_path)
    work = [
        Work(phase="search", training=one, passes=100, jobs=1),
        Work(phase="trainings", training=one, passes=100, jobs=1, most=3),
    ]
    pace = Pace(seconds=(0.5, 1.0), source="earlier")
    expected = estimate(work, lambda training: pace)
    assert expected.phases == {"search": (50, 100), "trainings": (50, 300)}
    wall = (100 + 2 * JOB_SECONDS, 400 + 4 * JOB_SECONDS)
    assert expected.wall == pytest.approx([START_SECONDS + seconds for seconds in wall])


def test_an_unknown_network_is_as_fast_as_the_nearest_by_its_gflops(
    tiny_store: Path, tmp_path: Path
) -> None:
    plain, stil = trainings(tiny_store, tmp_path)
    paces = Paces()
    assert paces.of(plain) is None
    paces.add(plain, seconds=0.2, source="measured")
    known = paces.of(plain)
    assert known is not None
    assert known.seconds[0] < 0.2 < known.seconds[1]
    guessed = paces.of(stil)
    assert guessed is not None
    assert guessed.source == "GFLOPs"
    middle = (guessed.seconds[0] * guessed.seconds[1]) ** 0.5
    assert middle == pytest.approx(0.2 * gflops_of(stil) / gflops_of(plain))
    dropped = replace(plain, options={**plain.options, "dropout": 0.25})
    other = replace(plain, options={**plain.options, "dropout": 0.5})
    paces.add(dropped, seconds=0.4, source="measured")
    assert paces.of(other) == paces.of(dropped), "how much is dropped makes no difference"


@pytest.mark.parametrize("refit", [False, True])
def test_a_whole_study_has_its_trials_then_its_trainings_then_nothing(
    tiny_store: Path, tmp_path: Path, refit: bool
) -> None:
    """Against what the jobs of a study come to, run one by one."""
    study = study_of(tiny_store, tmp_path, trials=2, seeds=2, lag=1, refit=refit)
    searches = searches_of(study)
    agenda = agenda_of(study, searches)
    objectives = {one.search.name: objective_of(study, key) for key, one in searches.items()}
    ledger = Ledger(ResultStore(tmp_path), objectives, checkpoints=study.checkpoints)
    untuned = study.plan()

    def left() -> dict[str, float]:
        passes = {"search": 0.0, "trainings": 0.0, "scoring": 0.0}
        outlook = look(agenda, ledger)
        for piece in work_left(study, agenda, outlook, untuned=untuned):
            passes[piece.phase] += piece.passes
        return passes

    stil = next(one for one in untuned.trainings.values() if one.options["interaction"])
    epoch = epoch_passes(stil, study.parts[stil.target.split])
    videos = len(study.parts["1"].train) + len(study.parts["1"].validation)
    on_all = 3 * stil.hyperparameters.segments * videos  # forward and backward, and no validation
    begin = left()
    # For each of two nets, two trials of nine epochs (of fewer than four none is pruned) and two
    # seeds.
    assert begin["search"] == 4 * 9 * epoch
    assert begin["trainings"] == 4 * 9 * (epoch + on_all if refit else epoch)
    outlook = look(agenda, ledger)
    assert longest_chain(agenda, outlook, lambda training: 1.0) == 2 * 9 + 9
    searched, scored = [begin["search"]], begin["scoring"]
    while not (outlook := look(agenda, ledger)).done:
        job = outlook.jobs[0]
        run_fake_job(study, study.job(job.training, until=job.until, parts=job.parts))
        ledger.forget(job.training.training_id)
        searched.append(left()["search"])
        assert left()["scoring"] <= scored
        scored = left()["scoring"]
    assert searched == sorted(searched, reverse=True)
    assert left() == {"search": 0, "trainings": 0, "scoring": 0}
