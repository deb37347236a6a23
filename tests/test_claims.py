"""Which studies need a checkpoint, in a folder and at an address."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from study.claims import claim, release
from study.results.store import ResultStore
from tests.data.s3_server import s3_server


@pytest.fixture(params=["folder", "s3"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultStore]:
    if request.param == "folder":
        yield ResultStore(tmp_path / "results")
        return
    with s3_server() as server:
        yield ResultStore(server.uri("bucket/results"))


def test_a_checkpoint_is_needed_until_the_last_study_releases_it(results: ResultStore) -> None:
    for study in ("one", "one", "other"):
        claim(results, "abc", study)
    claim(results, "abcdef", "one")
    assert not release(results, "abc", "one")
    assert release(results, "abc", "other")
    assert results.file_sizes("claims/abcdef").keys() == {"one"}
    assert release(results, "abc", "other"), "none has needed it since"
    claim(results, "abc", "one")
    assert release(results, "abc", "one")
