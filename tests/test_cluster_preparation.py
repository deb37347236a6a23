"""Preparation by several nodes of a Ray cluster."""

import filecmp

import pytest

from study.cluster_preparation import prepare_on_cluster
from study.data.catalog import annotate
from study.data.clip_store import StoreSettings
from study.data.flow import FlowSettings
from study.data.preparation import prepare
from study.prepare import main
from tests.data.video_files import write_dataset

SETTINGS = StoreSettings(
    dataset="folder", short_side=24, flow=FlowSettings(scales=1, warps=1, iterations=5)
)


@pytest.mark.slow
def test_nodes_make_the_store_that_one_machine_makes(tmp_path):
    videos = write_dataset(tmp_path / "videos")
    annotations = annotate("folder", videos=videos)
    (videos / "run/p1.avi").write_bytes(b"")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    expected = prepare(annotations, videos, alone, SETTINGS, workers=2)
    seen = []
    summary = prepare_on_cluster(
        None, annotations, videos, shared, SETTINGS, nodes=2, workers=1, progress=seen.append
    )
    assert (summary.stored, summary.prepared) == (9, 10)
    assert summary.skipped == expected.skipped
    assert [report.total for report in seen] == [10] * len(seen)
    files = [str(path.relative_to(alone)) for path in alone.rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(alone, shared, files, shallow=False)[1:] == ([], [])
    again = prepare_on_cluster(None, annotations, videos, shared, SETTINGS)
    assert again.prepared == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--nodes 2", "--nodes is for a cluster"),
        ("--address auto --nodes 0", "--nodes must be at least 1, got 0"),
        ("--address auto --retry-skipped", "--retry-skipped is for one machine"),
        ("--address auto", "--address needs --videos DIR"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, capsys, words, reason):
    given = ["synthetic", "--store", str(tmp_path / "store"), *words.split()]
    assert main(given) == 2
    assert reason in capsys.readouterr().err
