"""Trainings of two processes under Ray Train, one of which fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import UserCallback, WorkerGroupError
from ray.train.torch import TorchTrainer

from study.cluster import worker
from study.cluster.connection import running_ray
from study.cluster.resources import Resources
from study.job import GpuMemoryError, Job
from study.results.store import ResultStore
from tests.test_fit import job_of, study_of

TWO = Resources(workers=2, cpus_per_worker=0.4)


@pytest.fixture
def job(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A training of batches of 12, of which each of two processes takes 6."""
    monkeypatch.setattr(worker, "TuneReportCallback", UserCallback)  # there is no Tune here
    return job_of(study_of(tiny_store, tmp_path / "results"))


def _out_of_memory(most: int, folder: Path) -> Callable[[dict[str, Any]], None]:
    """Returns what trains on a worker, of which the second has memory for some videos a pass.

    Each writes to the folder where other machines could reach it.
    """

    def train_on_worker(config: dict[str, Any]) -> None:
        import json
        import os

        import torch.distributed as dist

        from study.cluster import worker
        from study.training import loop
        from tests.integration.processes import open_to_others

        inputs = vars(loop)["model_inputs"]

        def failing_inputs(batch: dict[str, Any], device: Any) -> Any:
            if dist.get_rank() == 1 and len(batch["label"]) > most:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return inputs(batch, device)

        vars(loop)["model_inputs"] = failing_inputs
        dist.barrier()  # they are connected
        found = open_to_others({os.getpid(): "worker"})
        (folder / f"open-{dist.get_rank()}").write_text(json.dumps(found))
        worker._train_on_worker(config)

    return train_on_worker


def _execute(job: Job, folder: Path) -> None:
    (folder / "ray").mkdir()
    worker.execute(
        job, TWO, lambda metrics: None, at_once=1, storage=str(folder / "ray"), sources={}
    )


OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.slow
def test_out_of_memory_in_one_process_halves_the_passes_of_all(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile they hear this machine alone."""
    monkeypatch.setattr(worker, "_train_on_worker", _out_of_memory(3, tmp_path))
    with (
        running_ray(None),
        pytest.warns(RuntimeWarning, match=r"2\.00 GiB.* started again with half the videos"),
    ):
        _execute(job, tmp_path)
    (line,) = ResultStore(tmp_path / "results").read("trainings").to_pylist()
    assert (line["status"], line["workers"]) == ("finished", 2)
    assert "from epoch 1 on each forward pass had half the videos" in line["notes"]
    assert [(tmp_path / f"open-{rank}").read_text() for rank in (0, 1)] == ["[]", "[]"]


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ZeroDivisionError("by one"), ZeroDivisionError, "by one"),
        (RuntimeError("it was killed"), WorkerGroupError, "both failed"),
    ],
)
def test_an_error_that_would_repeat_itself_is_raised_as_what_it_is(
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    said: str,
) -> None:
    """The other process fails too, as it no longer hears from the first."""

    def fit(trainer: TorchTrainer) -> None:
        raise WorkerGroupError("both failed", {0: RuntimeError("connection closed"), 1: error})

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    with pytest.raises(raised, match=said):
        _execute(job, tmp_path)


@pytest.mark.filterwarnings("ignore:.*half the videos")
def test_out_of_memory_at_half_the_passes_is_a_clear_failure(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []

    def too_small(job: Job, *_: Any, **__: Any) -> None:
        tried.append(job.halved)
        raise GpuMemoryError("the GPU's memory is too small")

    monkeypatch.setattr(worker, "_train_on_several", too_small)
    with pytest.raises(GpuMemoryError, match="too small"):
        _execute(job, tmp_path)
    assert tried == [False, True]
