"""The papers' tables with ours beside."""

import csv
import importlib
import io
import re
import statistics
from pathlib import Path

import pytest

import search_spaces
from search_spaces import METRICS, Arm, Settings, Space, registry
from study.results.grids import FORMATS
from study.results.schema import VIEWS
from study.results.store import ResultStore
from study.results.tables import load, render
from tests.sample_results import row, training, write_rows


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def cells_of(text: str, label: str) -> list[str]:
    """The cells of the line that starts with a label."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{label}  ")]
    return re.split(r"\s{2,}", line)[1:]


def footer(text: str, start: str) -> str:
    joined = " ".join(text.split())
    return joined[joined.index(start) :].partition(". ")[0]


@pytest.mark.parametrize("table", search_spaces.tables())
@pytest.mark.parametrize("form", FORMATS)
def test_every_table_renders_in_every_format_without_any_result(
    store: ResultStore, table: str, form: str
) -> None:
    text = render(table, store, form)
    if form == "text":
        assert max(map(len, text.splitlines())) <= 100
        has_published = bool(load(table, store).published_split)
        assert ("Not run by us" in text) == has_published


def test_the_mean_is_over_splits_and_seeds_and_the_spread_over_seeds(store: ResultStore) -> None:
    accuracy = {("1", 0): 0.50, ("2", 0): 0.60, ("1", 1): 0.54, ("2", 1): 0.66}
    for (split, seed), top1 in accuracy.items():
        write_rows(store, row("stil", top1, split=split, seed=seed))
    cell = load("stilt-4", store).cells["stil", "ucf101", "top1"]
    assert cell.mean == pytest.approx(statistics.fmean(accuracy.values()))
    assert cell.spread == pytest.approx(statistics.stdev([0.55, 0.60]))
    text = render("stilt-4", store)
    assert cells_of(text, "Two-stream + STIL") == ["57.5 ± 3.5", "94.1", "68.9", "68.8"]


def test_one_seed_has_no_spread_and_an_unrun_arm_is_marked(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, split="1"), row("stil", 0.7, split="2"))
    cell = load("stilt-4", store).cells["stil", "ucf101", "top1"]
    assert cell.mean == pytest.approx(0.6)
    assert cell.spread is None
    assert cells_of(render("stilt-4", store), "Spatial") == ["–", "81.2", "51.3", "53.8"]


def test_the_embedded_dataset_stands_alone(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.75, dataset="embedded", classes=8))
    table = load("stilt-4", store)
    assert table.datasets == ["embedded", "ucf101", "hmdb51", "kinetics400"]
    assert all(table.cells[arm, "embedded", "top1"].published is None for arm in table.labels)
    text = render("stilt-4", store)
    assert "Nothing is published on embedded: not to be compared." in text
    assert "Not run by us: UCF101, HMDB51, Kinetics-400." in text
    assert cells_of(text, "Two-stream + STIL") == ["75.0", "94.1", "68.9", "68.8"]


def test_the_footer_says_what_the_numbers_are_of(store: ResultStore) -> None:
    store.write("trainings", "t", [training("t", missing_videos=13170)])
    write_rows(
        store,
        row("spatial", 0.5, fusion="spatial", tuning="fixed"),
        row("temporal", 0.5, fusion="temporal", seed=1),
        row("stil", 0.6, split="2", videos=37),
    )
    text = render("stilt-4", store)
    assert footer(text, "Ours on UCF101:") == (
        "Ours on UCF101: study first; splits 1, 2; seeds 0, 1; test videos 42, 37; missing videos "
        "13170; chance level 16.7 %; views 3 × centre; modality RGB (Spatial), flow (Temporal), "
        "RGB + flow (the others); hyperparameters fixed (Spatial), shared (the others)"
    )
    assert "!! MISSING VIDEOS: the store lacks 13170 videos of UCF101." in text
    assert "!! INCOMPLETE on UCF101" in text


def test_no_missing_video_is_no_alarm(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, missing_videos=0))
    text = render("stilt-4", store)
    assert "!!" not in text
    assert "missing videos 0" in text


def test_the_chance_level_comes_from_the_scores_when_the_row_lacks_it(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, classes=None))
    assert "chance level unknown" in " ".join(render("stilt-4", store).split())
    score = {"training_id": "t", "part": "test", "video": "v", "label": 0, "stream": "spatial"}
    store.write("scores", "s", [{**score, "scoring_id": "s", "scores": [0.25] * 4}])
    assert "chance level 25.0 %" in " ".join(render("stilt-4", store).split())


def test_studies_are_not_mixed_and_the_last_one_is_shown(store: ResultStore) -> None:
    for number, study in enumerate(["early", "late"]):
        start = training("t")["started_at"].replace(day=1 + number)
        store.write("trainings", study, [training(study, study=study, started_at=start)])
        write_rows(store, row("stil", 0.5 + number / 10, study=study, training_id=study))
    assert load("stilt-4", store).cells["stil", "ucf101", "top1"].mean == pytest.approx(0.6)
    assert "Other studies in these results: early." in render("stilt-4", store)
    early = load("stilt-4", store, study="early")
    assert early.cells["stil", "ucf101", "top1"].mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"no study 'nope'.*there are early, late"):
        render("stilt-4", store, study="nope")


def test_only_test_rows_of_the_tables_own_system_count(store: ResultStore) -> None:
    write_rows(
        store,
        row("stil", 0.9, part="validation"),
        row("stil", 0.8, space="other", seed=1),
        row("unknown-arm", 0.7),
    )
    assert load("stilt-4", store).facts == {}


def test_a_published_number_of_another_split_says_so(store: ResultStore) -> None:
    text = render("comparators", store)
    assert "83.03 (split 1)" in text
    assert "UCF101 mean of 3" in text
    assert cells_of(text, "Two-stream CNN, SVM") == ["88.0", "59.4", "–", "–"]


def test_two_metrics_have_a_column_each(store: ResultStore) -> None:
    write_rows(store, row("cstm", 0.5, space="cstm", dataset="something_v2", top5=0.75))
    text = render("cstm-2", store)
    assert re.split(r"\s{2,}", text.splitlines()[2])[1:] == [
        "Something v2, ours",
        "Something v2, published",
    ]
    assert cells_of(text, "CSTM") == ["50.00", "75.00", "63.45", "88.79"]


def test_markdown_and_latex_hold_the_same_numbers(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5))
    markdown, latex = (render("stilt-4", store, form) for form in ("markdown", "latex"))
    assert "| Two-stream + STIL | 50.0 | 94.1 | 68.9 | 68.8 |" in markdown
    assert r"Two-stream + STIL & 50.0 & 94.1 & 68.9 & 68.8 \\" in latex
    assert r"16.7 \%" in latex
    assert "16.7 %" in markdown


def test_csv_has_a_line_a_cell_with_fractions(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, missing_videos=3), row("stil", 0.6, seed=1))
    lines = list(csv.DictReader(io.StringIO(render("stilt-4", store, "csv"))))
    assert len(lines) == 15
    (ours,) = [line for line in lines if line["ours"]]
    assert (ours["arm"], ours["dataset"], ours["metric"]) == ("stil", "ucf101", "top1")
    assert (ours["ours"], ours["published"], ours["runs"]) == ("0.55", "0.941", "2")
    assert float(ours["spread"]) == pytest.approx(statistics.stdev([0.5, 0.6]), abs=1e-6)
    assert ours["missing videos"] == "3"


def test_what_is_unknown_is_refused_with_what_there_is(store: ResultStore) -> None:
    with pytest.raises(ValueError, match="no table 'stilt-9'; there are all,"):
        render("stilt-9", store)
    with pytest.raises(ValueError, match="no format 'pdf'; there are text, markdown"):
        render("stilt-4", store, "pdf")


def test_names_from_the_results_are_escaped(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, dataset="a_b&<c>", views="3 × 50%"))
    assert "a\\_b&amp;&lt;c&gt;" in render("stilt-4", store, "markdown")
    latex = render("stilt-4", store, "latex")
    assert r"a\_b\&\textless{}c\textgreater{}" in latex
    assert r"3 $\times$ 50\%" in latex


OUTSIDE = """
from search_spaces import Arm, Settings, Space, Table, TableRow, register_space

@register_space("outside")
def outside():
    arms = (Arm(name="a", label="Arm A", model="tsn"), Arm(name="b", label="Arm B", model="tsm"))
    classes = Table(
        name="outside-classes",
        title="Outside: class by class",
        rows=(TableRow("b", "B, as we print it"), TableRow("a", note="a note on A")),
        metrics=("mean_class_accuracy",),
        ours=True,
        note="nobody prints this",
    )
    return Space(
        name="outside",
        title="Outside",
        arms=arms,
        search_arm="a",
        parameters=(),
        tables=(classes,),
        settings=Settings(),
    )
"""


def test_a_space_from_outside_prints_a_metric_and_arms_that_no_paper_prints(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_SPACES", dict(registry._SPACES))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_the_package.py").write_text(OUTSIDE)
    importlib.import_module("outside_the_package")
    write_rows(store, row("a", 0.5, space="outside", mean_class_accuracy=0.25))
    text = render("outside-classes", store)
    assert text.splitlines()[0] == "Outside: class by class"
    assert re.split(r"\s{2,}", text.splitlines()[3]) == ["arm", "mean class"]
    assert cells_of(text, "Arm A") == ["25.0"]
    assert cells_of(text, "B, as we print it") == ["–"]
    assert "Note: nobody prints this.\nNote: Arm A: a note on A." in text
    assert "Nothing is published on UCF101: not to be compared." in text


def test_a_space_without_tables_prints_one_of_all_its_arms(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_SPACES", {})
    bare = Space(
        name="bare",
        title="A bare space",
        arms=(Arm(name="a", label="Arm A", model="tsn"), Arm(name="b", label="Arm B", model="tsm")),
        search_arm="a",
        parameters=(),
        settings=Settings(),
    )
    registry.register_space("bare")(lambda: bare)
    write_rows(store, row("b", 0.5, space="bare"))
    text = render("bare", store)
    assert text.startswith("A bare space\n")
    assert [cells_of(text, label) for label in ("Arm A", "Arm B")] == [["–"], ["50.0"]]


def test_every_accuracy_of_the_results_can_be_a_tables_metric() -> None:
    assert list(METRICS) == [column.name for column in VIEWS["rows"] if column.fraction]


def test_a_dataset_of_a_paper_without_a_public_number_has_its_column(store: ResultStore) -> None:
    assert cells_of(render("stin", store), "Injection off") == ["–", "–"]
    table = load("stin", store)
    assert table.datasets == ["ucf101", "hmdb51"]
    assert "Note: no public number." in table.footers


def test_a_row_without_an_arm_has_printed_numbers_alone(store: ResultStore) -> None:
    write_rows(
        store,
        row("c3d", 0.5, space="stilt"),
        row("stilt-resnet50", 0.6, space="stilt"),
    )
    text = render("stilt-6", store)
    assert cells_of(text, "C3D [6]") == ["–", "77.4", "46.7", "56.1"]
    assert cells_of(text, "STILT (ResNet-50)") == ["60.0", "95.6", "72.1", "72.4"]
