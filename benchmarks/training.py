"""Our training loop against a bare PyTorch loop over tensors that lie ready, on the embedded study.

    python -m benchmarks.training [--epochs N] [--data DIR]

Both train STILT's network on this machine's CPU, one thread, at the settings that the space has on
the embedded dataset: the same weights at the start, batch size, optimiser and clipping. Ours also
chooses, decodes, crops and normalises every clip, keeps the losses and checks them. An epoch of the
one follows an epoch of the other, so that both meet the same machine. Compared are the medians of
the epochs' processor seconds; the first of ours, in which images are decoded, is left out. Without
--data the dataset is rendered and prepared first.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.embedded import study_of
from benchmarks.flow import processor
from models import VideoModel
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.data.store.embedded import prepare_embedded
from study.job import build_model
from study.plan import Training
from study.training.clips import clip_settings
from study.training.hyperparameters import Hyperparameters
from study.training.loop import put_channels_last, train, video_losses

CPU = torch.device("cpu")


def bare_epoch(
    model: VideoModel, data: ClipDataset, hyperparameters: Hyperparameters
) -> Callable[[], None]:
    """An epoch of a plain loop; all its batches are made before it is called."""
    put_channels_last(model.train())
    indices = list(range(len(data)))
    size = hyperparameters.batch_size
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    ready: list[tuple[dict[str, Tensor], Tensor]] = [
        (model_inputs(batch, CPU), batch["label"])
        for batch in make_loader(data, batches, device=CPU, workers=0)
    ]
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(
        parameters,
        lr=hyperparameters.learning_rate,
        momentum=hyperparameters.momentum,
        weight_decay=hyperparameters.weight_decay,
    )

    def epoch() -> None:
        for inputs, labels in ready:
            optimizer.zero_grad()
            losses = video_losses(model(**inputs), labels)
            torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
            nn.utils.clip_grad_norm_(parameters, hyperparameters.clip_norm or math.inf)
            optimizer.step()

    return epoch


def epoch_seconds(store: Path, epochs: int) -> tuple[list[float], list[float], int]:
    """Processor seconds of each epoch of our loop and of the bare one, and an epoch's clips."""
    study = study_of(store, seeds=1)
    training: Training = next(
        one for one in study.plan().trainings.values() if one.options["interaction"]
    )
    hyperparameters = training.hyperparameters

    def network() -> VideoModel:
        job = study.job(training, until=epochs)
        return build_model(job, num_classes=len(study.store.annotations.classes))

    def clips() -> ClipDataset:
        return ClipDataset(
            study.store,
            study.parts[training.target.split].train,
            clip=clip_settings(hyperparameters),
            augment=True,
            seed=training.seed,
        )

    bare = bare_epoch(network(), clips(), hyperparameters)
    taken: tuple[list[float], list[float]] = ([], [])
    began = time.process_time()

    def reported(_: object) -> None:
        nonlocal began
        between = time.process_time()
        bare()
        after = time.process_time()
        taken[0].append(between - began)
        taken[1].append(after - between)
        began = time.process_time()

    data = clips()
    train(
        network(),
        data,
        hyperparameters=hyperparameters,
        seed=training.seed,
        report=reported,
        until=epochs,
    )
    return taken[0][1:], taken[1][1:], len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=9, help="of each loop; 2 or more (9)")
    parser.add_argument("--data", type=Path, help="the embedded dataset's clip store, if prepared")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = given.data or Path(folder) / "embedded"
        prepare_embedded(store)
        ours, bare, clips = epoch_seconds(store, given.epochs)
    print(
        f"processor seconds of an epoch of {clips} clips, {processor()}, torch {torch.__version__}"
    )
    for name, seconds in (("bare loop", bare), ("our loop", ours)):
        median = statistics.median(seconds)
        print(f"{name:10} {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")
    print(
        f"our loop against the bare one: {statistics.median(bare) / statistics.median(ours):.2f}×"
    )


if __name__ == "__main__":
    main()
