"""Every figure of a study, as files and as figures that can be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.results.figures import figures, write_figures
from study.results.store import ResultStore
from tests.drawn import check_drawn, words
from tests.sample_results import ARMS, row, training, write_rows, write_study

SOME = ("spatial", "two-stream", "stil-awf-simplex")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("results"))
    write_study(store, classes=3, seeds=2, arms={arm: ARMS[arm] for arm in SOME})
    add_streams(store)
    return store


def add_streams(store: ResultStore) -> None:
    """Adds what the trainings' streams say of 12 test videos, and what AWF fitted on them."""
    rng = np.random.default_rng(0)
    rows = store.read("rows").to_pylist()
    for one in rows:
        name = f"scoring-{one['training_id']}"
        fitted = {"weights": [[0.25, 0.75]] * 3} if "awf" in one["arm"] else {}
        key = f"{one['study']}-{one['arm']}-{one['dataset']}-1-{one['seed']}-{one['protocol']}"
        store.write("rows", key, [{**one, "scoring_id": name, "details": fitted}])
        for view, width in (("scores", 3), ("features", 8)):
            lines = [
                {
                    "training_id": one["training_id"],
                    "scoring_id": name,
                    "part": "test",
                    "video": f"Class{video % 3:02}/g{video}",
                    "label": video % 3,
                    "stream": stream,
                    view: rng.random(width).tolist(),
                }
                for stream in ("temporal", "spatial")
                for video in range(12)
            ]
            store.write(view, name, lines)


def test_a_study_has_each_figure_once_and_all_can_be_read(store: ResultStore) -> None:
    drawn = {one.name: one.figure for one in figures(store, "stilt-ucf101")}
    compared = ("spatial", "stil-awf-simplex")
    search = "stil-awf-simplex-split-1-seed-0"
    assert sorted(drawn) == sorted(
        f"ucf101-{name}"
        for name in [
            "arms-against-two-stream",
            *(f"class-gains-{arm}-against-two-stream" for arm in compared),
            *(f"confusion-{arm}" for arm in SOME),
            *(f"confusion-{arm}-less-two-stream" for arm in compared),
            "fusion-weights-stil-awf-simplex",
            *(f"features-{arm}" for arm in SOME[1:]),
            "accuracy-against-cost",
            *(f"search{kind}-{search}" for kind in ("", "-lines", "-importances")),
            "expected-best",
            "epochs",
        ]
    )
    for figure in drawn.values():
        check_drawn(figure)


def test_any_two_arms_are_compared_by_naming_one(store: ResultStore) -> None:
    names = [one.name for one in figures(store, "stilt-ucf101", against="spatial")]
    assert "ucf101-class-gains-two-stream-against-spatial" in names
    assert not any("against-two-stream" in name for name in names)


def test_figures_are_written_in_the_formats_that_papers_take(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    write_rows(store, row("stil", 0.5, dataset="a/../b c"))
    store.write("trainings", "t", [training("t", dataset="a/../b c")])
    epoch = {"training_id": "t", "epoch": 1, "lr": 0.1, "train_loss": 1.5, "losses": {}}
    store.write("epochs", "t", [{**epoch, "seconds": 1.0}])
    folder = tmp_path / "new" / "figures"
    written = write_figures(store, "first", folder)
    assert written == [folder / f"a-..-b-c-epochs.{kind}" for kind in ("png", "svg", "pdf")]
    assert sorted(folder.iterdir()) == sorted(written)
    with Image.open(written[0]) as image:
        assert min(image.size) > 300
    assert "epoch" in words(written[1].read_text())
    assert written[2].read_bytes().startswith(b"%PDF")
    before = [path.read_bytes() for path in written]
    assert write_figures(store, "first", folder) == written
    assert [path.read_bytes() for path in written] == before, "the same figure, the same bytes"


def test_rows_without_predictions_or_trainings_have_no_figure(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_rows(store, row("stil", 0.5))
    assert list(figures(store, "first")) == []


def test_a_file_in_the_folders_place_is_refused(store: ResultStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
        write_figures(store, "stilt-ucf101", tmp_path / "file")
