"""Trainings of two processes under Ray Train, one of which fails."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import UserCallback

from study.cluster import worker
from study.cluster.connection import running_ray
from study.cluster.resources import Resources
from study.job import GpuMemoryError, Job
from study.results.store import ResultStore
from tests.test_fit import job_of, study_of

TWO = Resources(workers=2, cpus_per_worker=0.4)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with running_ray(None, nested=True):
        yield


@pytest.fixture
def job(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A training of batches of 12, of which each of two processes takes 6."""
    monkeypatch.setattr(worker, "TuneReportCallback", UserCallback)  # there is no Tune here
    return job_of(study_of(tiny_store, tmp_path / "results"))


def _failing(fails: Callable[[int], Exception | None]) -> Callable[[dict[str, Any]], None]:
    """Returns what trains on a worker, of which the second fails by the videos of a pass."""

    def train_on_worker(config: dict[str, Any]) -> None:
        import torch.distributed as dist

        from study.cluster import worker
        from study.training import loop

        inputs = loop.model_inputs

        def failing_inputs(batch: dict[str, Any], device: Any) -> Any:
            if dist.get_rank() == 1 and (error := fails(len(batch["label"]))):
                raise error
            return inputs(batch, device)

        loop.model_inputs = failing_inputs
        worker._train_on_worker(config)

    return train_on_worker


def _short_of_memory(most: int) -> Callable[[int], Exception | None]:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return lambda videos: error if videos > most else None


def _execute(job: Job, folder: Path) -> None:
    worker.execute(job, TWO, lambda metrics: None, at_once=1, storage=str(folder / "ray"))


@pytest.mark.slow
def test_out_of_memory_in_one_process_halves_the_passes_of_all(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_train_on_worker", _failing(_short_of_memory(3)))
    with pytest.warns(RuntimeWarning, match=r"2\.00 GiB.* started again with half the videos"):
        _execute(job, tmp_path)
    (line,) = ResultStore(tmp_path / "results").read("trainings").to_pylist()
    assert (line["status"], line["workers"]) == ("finished", 2)
    assert "from epoch 1 on each forward pass had half the videos" in line["notes"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*half the videos")
def test_out_of_memory_at_half_the_passes_is_a_clear_failure(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_train_on_worker", _failing(_short_of_memory(2)))
    with pytest.raises(GpuMemoryError, match=r"batches of 12 videos.*2\.00 GiB"):
        _execute(job, tmp_path)


@pytest.mark.slow
def test_an_error_that_would_repeat_itself_is_raised_as_what_it_is(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_train_on_worker", _failing(lambda _: ZeroDivisionError("by one")))
    with pytest.raises(ZeroDivisionError, match="by one"):
        _execute(job, tmp_path)
