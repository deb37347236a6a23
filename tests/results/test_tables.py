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
from study.results.comparison import compare
from study.results.grids import FORMATS
from study.results.predictions import judgements
from study.results.schema import VIEWS
from study.results.statistics import aligned
from study.results.store import ResultStore
from study.results.tables import load, render
from tests.sample_results import PROTOCOL, row, training, write_rows, write_study


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def cells_of(text: str, label: str) -> list[str]:
    """The cells of the lines that start with a label, one of each part of a wide table."""
    lines = [line for line in text.splitlines() if line.startswith(f"{label}  ")]
    return [cell for line in lines for cell in re.split(r"\s{2,}", line)[1:]]


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
        assert max(map(len, text.splitlines())) <= 80
        has_published = bool(load(table, store).published_split)
        assert ("Not run by us" in text) == has_published


def test_the_mean_is_over_splits_and_seeds(store: ResultStore) -> None:
    accuracy = {("1", 0): 0.50, ("2", 0): 0.60, ("1", 1): 0.54, ("2", 1): 0.66}
    for (split, seed), top1 in accuracy.items():
        write_rows(store, row("stil", top1, split=split, seed=seed))
    cell = load("stilt-4", store).cells["stil", "ucf101", "top1"]
    assert cell.mean == pytest.approx(statistics.fmean(accuracy.values()))
    assert cells_of(render("stilt-4", store), "Two-stream + STIL") == ["57.5", "94.1"]


def test_rows_without_predictions_have_no_interval_and_an_unrun_arm_is_marked(
    store: ResultStore,
) -> None:
    write_rows(store, row("stil", 0.5, split="1"), row("stil", 0.7, split="2"))
    cell = load("stilt-4", store).cells["stil", "ucf101", "top1"]
    assert cell.mean == pytest.approx(0.6)
    assert cell.half_width is None
    text = render("stilt-4", store)
    assert cells_of(text, "Spatial") == ["–", "81.2"]
    assert "±" not in text


def test_an_arm_has_its_interval_and_a_mark_where_it_differs_from_the_reference(
    store: ResultStore,
) -> None:
    write_study(store)
    judged = judgements(store, study="stilt-ucf101", dataset="ucf101", protocol=PROTOCOL)
    table = load("stilt-4", store)
    compared = {one.arm: one for one in compare({a: judged[a] for a in table.labels}, "two-stream")}
    text = render("stilt-4", store)
    (lines, marked) = (list(csv.DictReader(io.StringIO(render("stilt-4", store, "csv")))), 0)
    for line, (arm, label) in zip(lines, table.labels.items(), strict=True):
        interval = aligned(judged[arm]).contrast([1]).interval()
        assert interval is not None
        assert float(line["low"]) == pytest.approx(interval.low, abs=1e-5)
        ours, _ = cells_of(text, label)
        half = 100 * (interval.high - interval.low) / 2
        mean = 100 * judged[arm].correct.mean()
        differs = arm in compared and compared[arm].verdict in ("better", "worse")
        assert ours == f"{mean:.1f} ± {half:.1f}{' *' if differs else ''}"
        assert line["verdict"] == (compared[arm].verdict if arm in compared else "")
        marked += differs
    assert 0 < marked < len(compared)
    said = " ".join(text.split())
    assert "± is half the width of the 95 % interval of top-1 over training seeds" in said
    assert "* on UCF101: differs from Two-stream; tested against it as one of 4" in said


def test_published_numbers_of_datasets_that_were_not_run_are_left_out(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.75, dataset="embedded", classes=8))
    table = load("stilt-4", store)
    assert table.datasets == ["embedded"]
    text = render("stilt-4", store)
    assert (
        "The published numbers of this table are of UCF101, HMDB51, Kinetics-400; there are none "
        "of embedded."
    ) in " ".join(text.split())
    assert "Sources" not in text
    assert cells_of(text, "Two-stream + STIL") == ["75.0"]


def test_awf_that_takes_one_stream_for_every_class_says_why(store: ResultStore) -> None:
    mixed = row("stil", 0.5, fusion="awf-simplex", details={"weights": [[1, 0], [0, 1]]})
    write_rows(store, mixed)
    assert "vertex" not in render("stilt-4", store)
    same = row("stil-awf-simplex", 0.5, fusion="awf-simplex", details={"weights": [[1, 0], [1, 0]]})
    write_rows(store, same)
    assert (
        "Two-stream + STIL + AWF: equals one stream of its net in at least one run. The program of "
        "AWF on the simplex is linear, so its optimum is a vertex"
    ) in " ".join(render("stilt-4", store).split())


def test_splits_are_in_the_order_of_their_numbers(store: ResultStore) -> None:
    write_rows(store, *(row("stil", 0.5, split=split) for split in ("10", "2", "1")))
    facts = load("stilt-4", store).facts["ucf101"]
    assert (facts["splits"], facts["test videos"]) == ("1, 2, 10", "126")


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
        "Ours on UCF101: study first; protocol 0123456789ab; splits 1, 2; seeds 0, 1; test videos "
        "37 (Two-stream + STIL), 42 (the others); missing videos 13170; chance level 16.7 %; "
        "views 3 × centre; modality RGB (Spatial), flow (Temporal), RGB + flow (the others); "
        "hyperparameters fixed (Spatial), shared (the others)"
    )
    assert "!! MISSING VIDEOS: the store lacks 13170 videos of UCF101." in text
    assert "!! INCOMPLETE on UCF101" in text


def test_the_footer_says_how_much_of_train_was_trained_on(store: ResultStore) -> None:
    for split, videos in (("1", (75, 25)), ("2", (85, 15)), ("3", (100, 0))):
        line = training(split, train_videos=videos[0], validation_videos=videos[1])
        store.write("trainings", split, [line])
    write_rows(store, *(row("stil", 0.5, split=name, training_id=name) for name in "12"))
    assert "; trained on 80 % of train" in footer(render("stilt-4", store), "Ours on UCF101:")
    write_rows(store, row("spatial", 0.5, fusion="spatial", training_id="3"))
    text = footer(render("stilt-4", store), "Ours on UCF101:")
    assert "; trained on all of train (Spatial), 80 % of train (the others)" in text


def test_no_missing_video_is_no_alarm(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, missing_videos=0))
    text = render("stilt-4", store)
    assert "!!" not in text
    assert "missing videos 0" in " ".join(text.split())


def test_the_chance_level_is_unknown_where_the_rows_lack_the_classes(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, classes=None))
    assert "chance level unknown" in " ".join(render("stilt-4", store).split())


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
    assert "| Two-stream + STIL | 50.0 | 94.1 |" in markdown
    assert r"Two-stream + STIL & 50.0 & 94.1 \\" in latex
    assert r"16.7 \%" in latex
    assert "16.7 %" in markdown


def test_csv_has_a_line_a_cell_with_fractions(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5, missing_videos=3), row("stil", 0.6, seed=1))
    lines = list(csv.DictReader(io.StringIO(render("stilt-4", store, "csv"))))
    assert len(lines) == 5
    (ours,) = [line for line in lines if line["ours"]]
    assert (ours["arm"], ours["dataset"], ours["metric"]) == ("stil", "ucf101", "top1")
    assert (ours["ours"], ours["published"], ours["runs"]) == ("0.55", "0.941", "2")
    assert ours["missing videos"] == "3"


def test_what_is_unknown_is_refused_with_what_there_is(store: ResultStore) -> None:
    with pytest.raises(ValueError, match=r"no table 'stilt-9' .*; there are all,"):
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
    assert "ublished" not in text


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
    assert cells_of(text, "C3D [6]") == ["–", "77.4"]
    assert cells_of(text, "STILT (ResNet-50)") == ["60.0", "95.6"]


def test_a_row_of_two_trainings_has_the_notes_and_the_machines_of_both(store: ResultStore) -> None:
    of_stream = {"a": {"device_kind": "L4"}, "b": {"device_kind": "H100", "notes": "it was halved"}}
    for name, known in of_stream.items():
        store.write("trainings", name, [training(name, **known)])
    write_rows(store, row("two-stream", 0.5, training_id="a+b"))
    table = load("stilt-4", store)
    assert table.cells["two-stream", "ucf101", "top1"].mean == 0.5
    said = " ".join(table.warnings)
    assert "Two-stream on UCF101: it was halved." in said
    assert "TRAINED ON DIFFERENT MACHINES on UCF101: device" in said


def test_a_row_of_another_space_has_the_numbers_of_that_spaces_last_study(
    store: ResultStore,
) -> None:
    other = {"space": "comparators", "protocol": "ba9876543210"}
    write_rows(
        store,
        row("stilt-resnet50", 0.9),
        row("c3d", 0.75, study="volumes", **other),
        row("c3d", 0.25, study="elsewhere", dataset="hmdb51", **other),
        row("c3d", 0.5),  # an arm of this name in the table's own space is none of its rows
    )
    text = render("stilt-6", store, study="first")
    assert cells_of(text, "C3D [6]") == ["75.0", "77.4"]
    assert cells_of(text, "STILT (ResNet-50)") == ["90.0", "95.6"]
    said = " ".join(text.split())
    assert "study volumes (C3D [6]), first (the others)" in said
    assert "HMDB51" not in said
    assert "Meng et al. [26], TDD [37]" in said
    assert "published numbers alone, as there is no model of it here" in said
    assert cells_of(render("stilt-6", store, study="volumes"), "STILT (ResNet-50)") == [
        "90.0",
        "95.6",
    ]
    with pytest.raises(ValueError, match=r"no study 'third' with test rows of stilt; there are fi"):
        render("stilt-6", store, study="third")


def test_arms_are_tested_against_those_of_their_own_study(store: ResultStore) -> None:
    nets = {"plain": ("plain", "average", 0.6), "better": ("stil", "average", 0.7)}
    for space, arms in (
        ("stilt", ("stilt-vgg19", "stilt-resnet50")),
        ("comparators", ("c3d", "artnet")),
    ):
        write_study(
            store, study=space, space=space, arms=dict(zip(arms, nets.values(), strict=True))
        )
    table = load("stilt-6", store)
    compared = {
        arm for arm, *_ in table.cells if table.cells[arm, "ucf101", "top1"].comparison is not None
    }
    assert compared == {"stilt-resnet50", "artnet"}
    said = " ".join(render("stilt-6", store).split())
    for reference in ("STILT(VGG-19)", "C3D [6]"):
        assert f"* on UCF101: differs from {reference}; tested against it as one of 1" in said
