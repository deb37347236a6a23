"""What ``--dry-run`` prints: the trainings by network, and where its times come from."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from study import calibration
from study.calibration import device_of, earlier_paces, measure_pace
from study.cluster.resources import Resources
from study.dry_run import print_dry_run
from study.estimate import epoch_passes
from study.job import run_job
from study.request import Study
from study.results.store import ResultStore
from tests.test_conduct import study_of

TINY = {
    "options.head_dims": (16, 16),
    "segments": 2,
    "test_segments": 2,
    "epochs": 2,
    "learning_rate": 1e-3,
}


@pytest.fixture
def study(tiny_store: Path, tmp_path: Path) -> Study:
    return study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=2, changes=TINY)


def printed(study: Study, width: int = 80) -> str:
    file = io.StringIO()
    print_dry_run(study, Console(file=file, width=width, highlight=False), address=None)
    return file.getvalue()


def test_trainings_are_one_line_a_network_and_phases_have_their_time(study: Study) -> None:
    shown = printed(study)
    assert "net 1: stilt (backbone small, no interaction) for spatial, temporal, two-str" in shown
    assert "net 2: stilt (backbone small, interaction) for stil, stil-weighted" in shown
    rows = [line.split() for line in shown.splitlines() if line.split()[1:4] == ["1", "×", "2"]]
    # Two seeds of one split, batches of eight, and a step for each eight videos.
    train = len(study.parts["1"].train)
    assert [row[4:7] for row in rows] == [["8", str(-(-train // 8)), "float32"]] * 2
    assert "search" not in shown, "nothing is searched"
    for phase in ("reported trainings", "scoring", "all", "wall time"):
        assert phase in shown
    assert f"a few steps, just now, on {device_of(study)}" in " ".join(shown.split())
    assert not list(Path(study.request.results).iterdir()), "nothing is written"


def test_what_is_refitted_is_a_network_of_its_own(tiny_store: Path, tmp_path: Path) -> None:
    changes = {**TINY, "batch_size": 1}
    asked: dict[str, Any] = {"tuning": "fixed", "arms": ("spatial", "two-stream-awf-l2")}
    study = study_of(tiny_store, tmp_path, seeds=2, refit=True, changes=changes, **asked)
    shown = " ".join(printed(study).split())
    assert "no interaction, on all of train) for spatial, two-stream-awf-l2" in shown
    assert "no interaction) for two-stream-awf-l2" in shown
    parts = study.parts["1"]
    steps = [len(parts.train) + len(parts.validation), len(parts.train)]
    assert [f"1 × 2 1 {count} float32" in shown for count in steps] == [True, True]


def test_what_own_choices_may_add_is_said(tiny_store: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"arms": ("two-stream", "two-stream-awf-l2"), "changes": TINY}
    net, own = (
        " ".join(printed(study_of(tiny_store, tmp_path, tuning=how, trials=3, **asked)).split())
        for how in ("net", "own")
    )
    assert "reported trainings (up to 6)" in own, "of each of two seeds three, one a trial"
    assert "up to" not in net


def test_earlier_trainings_on_the_same_device_tell_the_time(study: Study) -> None:
    results = ResultStore(study.request.results)
    ran = list(study.plan().trainings.values())[:2]
    for training in ran:
        run_job(study.job(training, until=2, parts=("validation", "test")))
    assert earlier_paces(results, "another device")[0].of(ran[0]) is None
    device = results.read("trainings")["device"][0].as_py()
    paces, _ = earlier_paces(results, device)
    for training in ran:
        epochs = results.read("epochs", keys=[training.training_id])["seconds"].to_pylist()
        expected = sum(epochs) / (2 * epoch_passes(training, study.parts["1"]))
        pace = paces.of(training)
        assert pace is not None
        assert pace.source == "earlier"
        assert pace.seconds == pytest.approx((expected, expected))


def test_what_cannot_run_here_is_left_out_and_said(tiny_store: Path, tmp_path: Path) -> None:
    resources = Resources(gpus_per_worker=1)
    study = study_of(
        tiny_store, tmp_path, trials=0, tuning="fixed", resources=resources, changes=TINY
    )
    if device_of(study) is not None:
        pytest.skip("there is a GPU")
    assert measure_pace(study, next(iter(study.plan().trainings.values()))) is None
    shown = printed(study)
    assert "no time is estimated for stilt (backbone small" in shown
    assert "GiB" in shown
    assert "wall time" not in shown


def test_a_network_too_large_for_the_cpu_is_not_tried(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = next(iter(study.plan().trainings.values()))
    monkeypatch.setattr(calibration, "MOST_GFLOPS", 0.0)
    monkeypatch.setattr(calibration, "train", lambda *_, **__: pytest.fail("it was tried"))
    assert measure_pace(study, training) is None
