"""Jobs that train nothing: each writes scores that depend on its training and epoch alone."""

import hashlib
from datetime import UTC, datetime

import numpy as np
from scipy.special import softmax

from study.data.datasets.parts import split_parts
from study.job import Job, epoch_row, rung_key, score_blocks, stored_parts, training_row
from study.plan import served_trainings
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.scores import Scores
from study.training.loop import EpochReport

STREAMS = ("spatial", "temporal")


def run_fake_job(study: Study, job: Job) -> None:
    """Writes what a job would write, with random scores in the place of a network's."""
    results, training = ResultStore(job.results), job.training
    identity = training.training_id
    epochs = [
        EpochReport(
            epoch=epoch + 1,
            lr=0.1,
            train_loss=1.0,
            losses=dict.fromkeys(STREAMS, 1.0),
            validation_top1=0.5,
            seconds=1.0,
            clips_per_second=10.0,
        )
        for epoch in range(job.until)
    ]
    results.write("epochs", identity, [epoch_row(identity, epoch) for epoch in epochs])
    if training.train_on == "train":
        rung = _scores(study, job, "validation", job.until)
        blocks = score_blocks(rung, "scores", training_id=identity, epoch=job.until)
        results.write_blocks("validation_scores", rung_key(identity, job.until), blocks)
    if job.until < training.hyperparameters.epochs:
        return
    parts = {*job.parts, *stored_parts(results, identity, training.scoring_id)}
    scored = {part: _scores(study, job, part, job.until) for part in sorted(parts)}
    for view in ("scores", "features"):
        if scored and (view == "scores" or "train" in scored):
            blocks = [
                block
                for part, scores in scored.items()
                for block in score_blocks(
                    scores,
                    view,
                    training_id=identity,
                    scoring_id=training.scoring_id,
                    part=part,
                )
            ]
            results.write_blocks(view, training.scoring_id, blocks)
    row = {
        **training_row(job),
        "serves": canonical_json([one.training_id for one in served_trainings(training)]),
        "status": "finished",
        "epochs": job.until,
        "started_at": datetime.now(UTC),
    }
    results.write("trainings", identity, [row])


def _scores(study: Study, job: Job, part: str, epoch: int) -> Scores:
    target = job.training.target
    parts = split_parts(
        study.store.annotations,
        target.split,
        stored=study.store,
        train_on=job.training.train_on,
        carve=target.carve,
    )
    videos = sorted(getattr(parts, part), key=lambda video: video.name)
    classes = len(study.store.annotations.classes)
    labels = np.array([video.label for video in videos])
    scores, features = {}, {}
    for stream in job.training.options.get("streams", STREAMS):
        name = f"{job.training.training_id}/{part}/{stream}/{epoch}"
        rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        logits = rng.normal(size=(len(videos), classes)) + 2 * np.eye(classes)[labels]
        scores[stream] = softmax(logits, axis=1).astype(np.float32)
        features[stream] = logits.astype(np.float32)
    return Scores(
        videos=[video.name for video in videos], labels=labels, scores=scores, features=features
    )
