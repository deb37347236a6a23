"""Weights files of a study whose results are at an address."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from study.data.store.remote import CACHE_VARIABLE
from study.job import build_model
from study.shared_weights import share_weights
from tests.test_fit import job_of, study_of


def test_what_a_driver_has_starts_trainings_of_nodes_that_do_not_see_it(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    job = job_of(study_of(tiny_store, tmp_path / "results"))
    trained = build_model(job, num_classes=4)
    for parameter in trained.parameters():
        torch.nn.init.uniform_(parameter)
    file = tmp_path / "driver" / "own weights?.pt"
    file.parent.mkdir()
    torch.save(trained.state_dict(), file)
    started = replace(job, weights_files=dict.fromkeys(("spatial", "temporal"), str(file)))
    assert share_weights(started) == started, "a folder is shared"

    away = replace(started, results=(tmp_path / "there").as_uri())
    for _ in range(2):
        shared = share_weights(away)
    (copy,) = (tmp_path / "there" / "weights").iterdir()
    assert copy.read_bytes() == file.read_bytes()
    file.unlink()
    found = build_model(shared, num_classes=4).state_dict()
    assert found.keys() == trained.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())
    copy.unlink()
    build_model(shared, num_classes=4)  # from this machine's cache
