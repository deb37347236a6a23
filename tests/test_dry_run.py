"""What ``--dry-run`` prints: the trainings by network, and where its times come from."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import search_spaces
from search_spaces.space import TableRow
from study import calibration
from study.calibration import device_of, earlier_paces, measure_pace
from study.cluster.resources import Resources
from study.dry_run import print_dry_run
from study.estimate import epoch_passes
from study.job import run_job
from study.request import Study, check_request
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


def table_of(shown: str) -> list[str]:
    """The lines of the table of trainings."""
    _, _, table = shown.partition(" training ")
    lines = f" training {table}".splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.strip())]


def lines_of(shown: str) -> dict[str, dict[str, str]]:
    """The cells of the table of trainings by the training's name and the column's."""
    header, _, *rows = [line.split() for line in table_of(shown)]
    names = header[:-2]  # "each takes" is one column, and its cells are two words
    return {row[0]: dict(zip(names, row, strict=False)) for row in rows}


def test_trainings_are_one_line_a_network_and_phases_have_their_time(study: Study) -> None:
    shown = printed(study, width=120)
    assert "stilt (backbone small, no interaction) serves spatial, temporal, two-str" in shown
    assert "stilt (backbone small, interaction) serves stil, stil-weighted" in shown
    rows = lines_of(shown)
    # Two seeds of one split, batches of eight, and a step for each eight videos.
    train = len(study.parts["1"].train)
    alike = {"runs": "2", "batch": "8", "micro": "8", "steps": str(-(-train // 8)), "epochs": "2"}
    alike |= {"rate": "0.001", "crop": "28", "precision": "float32"}
    assert rows["two-stream"] == {"training": "two-stream", "arms": "9", **alike}
    assert rows["stil"] == {"training": "stil", "arms": "7", **alike}
    assert "search" not in shown, "nothing is searched"
    for phase in ("reported trainings", "scoring", "all", "wall time"):
        assert phase in shown
    assert f"a few steps, just now, on {device_of(study)}" in " ".join(shown.split())
    assert not list(Path(study.request.results).iterdir()), "nothing is written"


def test_what_is_refitted_is_a_network_of_its_own(tiny_store: Path, tmp_path: Path) -> None:
    changes = {**TINY, "batch_size": 1}
    asked: dict[str, Any] = {"tuning": "fixed", "arms": ("spatial", "two-stream-awf-l2")}
    study = study_of(tiny_store, tmp_path, seeds=2, refit=True, changes=changes, **asked)
    shown = printed(study)
    assert "no interaction, on all of train) serves spatial, two-stream-awf-l2" in shown
    assert "‡ on all of train" in shown
    parts, rows = study.parts["1"], lines_of(shown)
    everything = len(parts.train) + len(parts.validation)
    assert rows["two-stream-awf-l2‡"]["steps"] == str(everything)
    assert rows["two-stream-awf-l2"]["steps"] == str(len(parts.train))


@pytest.mark.parametrize("width", [80, 120])
def test_columns_that_do_not_fit_are_said_once_where_all_lines_are_alike(
    width: int, tiny_store: Path, tmp_path: Path
) -> None:
    changes = {**TINY, "crop_size": 28, "batch_size": 8, "accumulation_steps": 2}
    study = study_of(tiny_store, tmp_path, changes=changes)
    shown = printed(study, width)
    assert max(map(len, table_of(shown))) <= width
    rows = lines_of(shown)
    for name in ("batch", "micro", "steps", "rate"):
        assert all(name in row for row in rows.values())
    assert {row["micro"] for row in rows.values()} == {"4"}
    assert ("all alike: precision float32" in shown) is (width == 80)
    assert ("precision" in rows["stil"]) is (width == 120)


def test_a_rate_that_is_searched_is_marked(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path, arms=("stil",), changes={"epochs": 2})
    shown = printed(study)
    assert lines_of(shown)["stil"]["rate"].endswith("*")
    assert "* where its search starts" in shown


def test_arms_of_one_training_and_fusion_are_said_to_be_one_result(
    tiny_store: Path, tmp_path: Path
) -> None:
    space = search_spaces.get("stilt").on("embedded")
    twin = replace(space.arm("stil"), name="twin", label="Twin")
    table = replace(space.tables[0], rows=(*space.tables[0].rows, TableRow("twin")))
    space = replace(space, arms=(*space.arms, twin), tables=(table, *space.tables[1:]))
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", changes=TINY)
    arms = ("stil", "twin", "stil-weighted")
    study = check_request(replace(study.request, space=space, arms=arms))
    shown = printed(study)
    assert "stil and twin are the same training, fused alike: one result" in shown
    assert lines_of(shown)["stil"]["arms"] == "3"


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
