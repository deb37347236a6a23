"""What a study plans for a GPU, without one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import search_spaces
from study import job as jobs
from study import run
from study.cluster.resources import Resources
from study.fit import fit_training, result_depends_on_passes
from study.request import Request, Study, check_request
from study.results.store import ResultStore

GPU = Resources(gpus_per_worker=1)
SMALL = {
    "options.backbone": "small",  # has no batch normalisation
    "options.partial_bn": False,
    "options.head_dims": [16],
    "options.attention_dim": 16,
    "batch_size": 12,
    "epochs": 1,
    "segments": 2,
    "test_segments": 2,
}
NORMS = {**SMALL, "options.backbone": "bn_inception", "crop_size": 64}
PLAIN = {**SMALL, "options.dropout": 0.0, "options.attention_dropout": 0.0}
TIGHT = 1.0805  # GB: more than one video of the small net needs, less than a whole batch


def study_of(store: Path, results: Path, changes: dict[str, Any] = SMALL, **more: Any) -> Study:
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            arms=("stil",),
            store=store,
            results=str(results),
            tuning="fixed",
            changes=changes,
            **{"weights": "none", "seeds": 1, **more},
        )
    )


def job_of(study: Study) -> jobs.Job:
    (training,) = study.plan().trainings.values()
    return study.job(training, until=1, parts=("test", "validation"))


def test_on_the_cpu_nothing_is_planned(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path)
    job = job_of(study)
    assert study.division(job.training) is None
    assert (job.gpu, job.accumulation_steps, job.scoring_batch) == (False, None, None)
    assert job.training.hyperparameters.accumulation_steps == 1
    assert job.training.hyperparameters.precision == "float32"
    with pytest.raises(ValueError, match="--gpu-memory needs a GPU"):
        study_of(tiny_store, tmp_path, gpu_memory=24)


def test_memory_changes_the_job_but_no_identity_where_the_passes_do_not_matter(
    tiny_store: Path, tmp_path: Path
) -> None:
    roomy, tight = (
        job_of(study_of(tiny_store, tmp_path, PLAIN, resources=GPU, gpu_memory=memory))
        for memory in (None, TIGHT)
    )
    assert roomy.accumulation_steps == 1
    assert tight.accumulation_steps is not None
    assert tight.accumulation_steps > 1
    assert tight.training.training_id == roomy.training.training_id
    on_cpu = job_of(study_of(tiny_store, tmp_path, PLAIN))
    assert on_cpu.training.training_id == roomy.training.training_id


def test_memory_changes_the_identity_where_norms_see_the_batch(
    tiny_store: Path, tmp_path: Path
) -> None:
    roomy, tight = (
        job_of(study_of(tiny_store, tmp_path, NORMS, resources=GPU, gpu_memory=memory))
        for memory in (None, 1.45)
    )
    assert roomy.training.hyperparameters.accumulation_steps == 1
    assert tight.training.hyperparameters.accumulation_steps == tight.accumulation_steps
    assert tight.training.training_id != roomy.training.training_id


def test_what_the_user_sets_wins(tiny_store: Path, tmp_path: Path) -> None:
    changes = {**SMALL, "accumulation_steps": 3, "precision": "bfloat16"}
    job = job_of(study_of(tiny_store, tmp_path, changes, resources=GPU))
    assert job.accumulation_steps == job.training.hyperparameters.accumulation_steps == 3
    assert job.training.hyperparameters.precision == "bfloat16"
    job = job_of(study_of(tiny_store, tmp_path, {**SMALL, "accumulation_steps": 1}, resources=GPU))
    assert job.accumulation_steps == 1


def test_the_passes_are_part_of_a_training_whose_clips_are_mixed_within_them(
    tiny_store: Path, tmp_path: Path
) -> None:
    for change, matter in (({}, False), ({"mixup_alpha": 0.2}, True)):
        settings = {**PLAIN, **change}
        job = job_of(study_of(tiny_store, tmp_path, settings, resources=GPU))
        assert result_depends_on_passes(job.training) == matter


def test_activation_checkpointing_that_is_asked_for_is_planned_and_not_compiled(
    tiny_store: Path, tmp_path: Path
) -> None:
    settings = {**SMALL, "activation_checkpointing": True}
    plain, ours = (
        job_of(study_of(tiny_store, tmp_path, one, resources=GPU)) for one in (SMALL, settings)
    )
    assert (plain.activation_checkpointing, ours.activation_checkpointing) == (False, True)
    assert plain.training.training_id == ours.training.training_id
    with pytest.raises(ValueError, match="activation_checkpointing doesn't go with --compile"):
        study_of(tiny_store, tmp_path, settings, resources=GPU, compile=True)


def test_a_training_that_cannot_fit_is_refused_before_anything_starts(
    tiny_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"one video needs 1\.\d GiB of GPU memory"):
        study_of(tiny_store, tmp_path, resources=GPU, gpu_memory=1)


def test_trainings_that_share_a_gpu_divide_its_memory(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path, resources=replace(GPU, gpus_per_worker=0.5))
    assert study.gpu is not None
    assert study.gpu.bytes == 12 * 10**9


@pytest.mark.parametrize(
    ("weights", "given", "precision"),
    [("file", (), "bfloat16"), ("file", ("precision",), "float32"), ("none", (), "float32")],
)
def test_from_image_weights_a_gpu_trains_in_bfloat16(
    tiny_store: Path, tmp_path: Path, weights: str, given: tuple[str, ...], precision: str
) -> None:
    study = study_of(tiny_store, tmp_path, resources=GPU)
    training = replace(job_of(study).training, weights=weights)
    assert study.gpu is not None
    fitted = fit_training(training, study.gpu, given=given)
    assert fitted.hyperparameters.precision == precision


def test_a_dry_run_says_what_each_net_needs(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
    command = ["--space", "stilt", "--arms", "stil", "--seeds", "2", "--data", str(tiny_store)]
    command += ["--results", str(tmp_path), "--weights", "none", "--dry-run", "--set", *settings]
    assert run.main([*command, "--gpus-per-worker", "1"]) == 0
    said = capsys.readouterr().out
    assert "GiB" in said
    lines = [line.split() for line in said.splitlines()]
    (heads,) = (line for line in lines if line[:1] == ["training"])
    (net,) = (line for line in lines if line[:1] == ["stil"])  # both seeds in one line
    assert (net[heads.index("runs")], net[heads.index("micro")]) == ("2", "12")
    assert run.main(command) == 0
    assert "GiB" not in capsys.readouterr().out


def test_what_a_training_ran_in_stands_in_the_results(tiny_store: Path, tmp_path: Path) -> None:
    jobs.run_job(job_of(study_of(tiny_store, tmp_path)))
    (line,) = ResultStore(tmp_path).read("trainings").to_pylist()
    assert (line["precision"], line["notes"]) == ("float32", None)


def test_memory_that_stays_too_small_is_a_failure_that_says_what_to_set(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(jobs, "train", hungry)
    with pytest.raises(
        ValueError, match=r"12 videos in 1 passes: .*2\.00 GiB.*accumulation_steps=2"
    ):
        jobs.run_job(job_of(study_of(tiny_store, tmp_path)))
