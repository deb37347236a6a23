"""Datasets are found by their files, and what they need is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.data.datasets.catalog import (
    annotate,
    dataset_title,
    find_reader,
    list_datasets,
    videos_folder,
)
from study.data.datasets.reader import register_dataset
from study.data.store.preparation import default_settings

PLANTED = """
from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.reader import register_dataset

@register_dataset("planted", title="Planted")
def annotate() -> Annotations:
    video = Video(name="dive/1", path="1.mp4", label=0, group="1")
    split = Split(name="1", train=(video,), test=(video,))
    return Annotations(
        dataset="planted", classes=("dive",), splits={"1": split}, flip_classes=(0,)
    )
"""


def test_every_file_that_registers_a_dataset_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file put into the package is all that a new dataset takes."""
    root = Path(__file__).parents[3]
    for package in ("models", "study"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / package, tmp_path / package, ignore=ignored)
    (tmp_path / "study/data/datasets/planted.py").write_text(PLANTED)
    script = (
        "from study.data.datasets.catalog import annotate, find_reader, list_datasets; "
        "print(find_reader('planted').title, annotate('planted').classes, *list_datasets())"
    )
    out = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert out.split() == ["Planted", "('dive',)", *sorted([*list_datasets(), "planted"])]


def test_two_datasets_of_one_name_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r'two datasets are named "ucf101", in study\..*ucf101 and'
    ):
        register_dataset("ucf101", title="UCF101")(annotate)


@pytest.mark.parametrize("dataset", list_datasets())
def test_every_dataset_has_a_title_and_says_what_it_needs(dataset: str, tmp_path: Path) -> None:
    reader = find_reader(dataset)
    assert reader.name == dataset
    assert reader.title.strip() == reader.title != ""
    assert dataset_title(dataset) == reader.title
    for name in reader.needs:
        with pytest.raises(ValueError, match=f'"{dataset}" needs {name}: '):
            annotate(dataset)
    assert default_settings(dataset).dataset == dataset


@pytest.mark.parametrize(
    "dataset", [name for name in list_datasets() if find_reader(name).needs == ("splits",)]
)
def test_official_datasets_are_annotated_from_their_split_files(
    real_data: Path, dataset: str
) -> None:
    splits = real_data / "splits" / dataset
    if not splits.is_dir():
        pytest.skip(f"its lists are not among the real data: no {splits}")
    if dataset == "kinetics400" and not (splits / "train.csv").exists():
        pytest.skip("its train list is too large to come with the real clips")
    annotations = annotate(dataset, splits=splits)
    assert annotations.dataset == dataset
    assert sorted(annotations.flip_classes) == list(range(len(annotations.classes)))
    for split in annotations.splits.values():
        names = [v.name for v in (*split.train, *split.test)]
        assert len(names) == len(set(names))
        for v in (*split.train[:50], *split.test[:50]):
            assert v.name.startswith(f"{annotations.classes[v.label]}/")


def test_a_request_that_cannot_be_met_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='unknown dataset "ucf"; there are: embedded, folder, '):
        annotate("ucf")
    with pytest.raises(ValueError, match='"ucf101" needs splits: the folder of its official'):
        annotate("ucf101", videos=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected classInd\.txt in"):
        annotate("ucf101", splits=tmp_path)
    with pytest.raises(FileNotFoundError, match="no splits folder"):
        annotate("ucf101", splits=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no videos folder"):
        annotate("ucf101", videos=tmp_path / "nowhere", splits=tmp_path)
    with pytest.raises(ValueError, match='"ucf101" takes no group, but got'):
        annotate("ucf101", splits=tmp_path, group="(a)")
    for dataset in ("embedded", "folder"):
        with pytest.raises(ValueError, match="takes no splits, but got"):
            annotate(dataset, videos=tmp_path, splits=tmp_path)
    with pytest.raises(ValueError, match='"folder" needs videos'):
        annotate("folder")


def test_a_dataset_without_videos_is_rendered_for_as_long_as_it_is_used() -> None:
    with videos_folder("embedded", None) as folder:
        videos = {str(path.relative_to(folder)) for path in folder.rglob("*.avi")}
    split = annotate("embedded").splits["1"]
    assert videos == {video.path for video in (*split.train, *split.test)}
    assert not folder.exists()


def test_videos_that_are_given_are_used_as_they_are(tmp_path: Path) -> None:
    for dataset in ("embedded", "ucf101"):
        with videos_folder(dataset, tmp_path) as folder:
            assert folder == tmp_path
    assert tmp_path.exists()
    with (
        pytest.raises(ValueError, match="ucf101 needs --videos DIR"),
        videos_folder("ucf101", None),
    ):
        pass
