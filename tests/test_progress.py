"""How far a study has come, and the time that is said to be left."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from study.estimate import START_SECONDS, Paces, epoch_passes
from study.ledger import Ledger, look
from study.progress import Progress
from study.results.status import Status, read_statuses
from study.results.store import ResultStore
from study.searches import agenda_of
from study.terminal import StudyDisplay
from tests.test_conduct import study_of


@pytest.fixture
def seen(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Paces, list[float]], tuple[Status, str]]:
    """Returns what is published, by paces and by when the only job reports its epochs."""

    def publish(paces: Paces, reports: list[float]) -> tuple[Status, str]:
        asked = {"trials": 0, "tuning": "fixed", "seeds": 1, "arms": ("stil",)}
        study = study_of(tiny_store, tmp_path, **asked)
        agenda, results = agenda_of(study, {}), ResultStore(tmp_path)
        outlook = look(agenda, Ledger(results, {}, checkpoints=study.checkpoints))
        said: list[str] = []
        display = StudyDisplay(Console(quiet=True))
        monkeypatch.setattr(display, "stands", said.append)
        shown = Progress(study, agenda, results, display, at_once=1, earlier=paces)
        (training,) = study.plan().trainings.values()
        job = study.job(training, until=9, parts=("validation", "test"))
        shown.add(job, "stil")
        for epoch, now in enumerate(reports, start=1):
            monkeypatch.setattr(time, "monotonic", lambda now=now: now)
            shown.reported(job, epoch, 0.5)
        shown.publish(outlook, at_once=True)
        return read_statuses(results)[0], said[-1]

    return publish


def test_a_run_of_which_nothing_is_known_is_estimating(
    seen: Callable[[Paces, list[float]], tuple[Status, str]],
) -> None:
    status, said = seen(Paces(), [])
    assert status.seconds_left is None
    assert said.endswith("estimating the time left")


def test_earlier_trainings_tell_the_time_until_the_run_has_epochs_of_its_own(
    seen: Callable[[Paces, list[float]], tuple[Status, str]], tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=1, arms=("stil",))
    (training,) = study.plan().trainings.values()
    passes = epoch_passes(training, study.parts_of(training))
    paces = Paces()
    for _ in range(2):  # two that agree leave no spread
        paces.add(training, seconds=600 / passes, source="earlier")
    status, said = seen(paces, [])
    assert status.seconds_left is not None
    epochs = (status.seconds_left - START_SECONDS) / 600
    assert 9 <= epochs < 10, "nine epochs, then the test videos"
    assert re.search(r"about 9\d min left$", said)
    # Epochs of 6 s; a single job's pace may be off by a quarter either way.
    status, _ = seen(paces, [0.0, 6.0, 12.0])
    assert status.seconds_left is not None
    assert 6 <= (status.seconds_left - START_SECONDS) / 6 < 8
