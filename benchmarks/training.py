"""Our training loop against a bare PyTorch loop over tensors that lie ready, on the embedded study.

    python -m benchmarks.training [--epochs N] [--processes N] [--data DIR]

1. Both train STILT's network on this machine's CPU, one thread, at the settings that the space has
   on the embedded dataset: the same weights at the start, batch size, optimiser and clipping. Ours
   also chooses, decodes, crops and normalises every clip, keeps the losses and checks them. An
   epoch of the one follows an epoch of the other, so that both meet the same machine. Compared are
   the medians of the epochs' processor seconds; the first half of ours, in which images are decoded
   and resized, is left out. Beside them stands what part of a large matrix product's operations a
   second that is, by the convolutions' and matrix products' operations alone.
2. With --processes, the clips a second of as many processes that train one network together with
   DistributedDataParallel, one thread each, against those of one. It takes as many idle cores.

Without --data the dataset is rendered and prepared first.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.embedded import study_of
from benchmarks.flow import processor
from models import VideoModel
from models.flops import count_flops
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.data.store.embedded import prepare_embedded
from study.job import build_model
from study.plan import Training
from study.request import Study
from study.training.clips import clip_settings
from study.training.hyperparameters import Hyperparameters
from study.training.loop import EpochReport, put_channels_last, train, video_losses

CPU = torch.device("cpu")
TRAINED = 3  # forward passes that a forward and a backward pass are worth
SIDE = 1024  # of the matrices whose product shows what the processor reaches


@dataclass(frozen=True)
class Network:
    """STILT's training on the embedded dataset."""

    study: Study
    training: Training

    @classmethod
    def of(cls, store: Path) -> "Network":
        study = study_of(store, seeds=1)
        trainings = study.plan().trainings.values()
        return cls(study, next(one for one in trainings if one.options["interaction"]))

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.training.hyperparameters

    def built(self) -> VideoModel:
        job = self.study.job(self.training, until=1)
        return build_model(job, num_classes=len(self.study.store.annotations.classes))

    def clips(self) -> ClipDataset:
        return ClipDataset(
            self.study.store,
            self.study.parts[self.training.target.split].train,
            clip=clip_settings(self.hyperparameters),
            augment=True,
            seed=self.training.seed,
        )

    def train(self, epochs: int, report: Callable[[EpochReport], None]) -> None:
        """Trains with our loop."""
        train(
            self.built(),
            self.clips(),
            hyperparameters=self.hyperparameters,
            seed=self.training.seed,
            report=report,
            until=epochs,
        )

    def gigaflops(self) -> float:
        """Billions of additions and multiplications of an epoch."""
        settings, model = self.hyperparameters, self.built()
        clip = model.example_inputs(frames=settings.segments, size=settings.crop_size)
        return 2 * TRAINED * count_flops(model, clip) * len(self.clips())


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


def epoch_seconds(network: Network, epochs: int) -> tuple[list[float], list[float]]:
    """Processor seconds of each epoch of our loop and of the bare one, once clips are kept."""
    bare = bare_epoch(network.built(), network.clips(), network.hyperparameters)
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

    network.train(epochs, reported)
    return taken[0][epochs // 2 :], taken[1][epochs // 2 :]


def matrix_gigaflops() -> float:
    """Billions of additions and multiplications a processor second of a matrix product."""
    left, right = torch.rand(2, SIDE, SIDE)
    seconds = []
    for _ in range(20):
        began = time.process_time()
        left @ right
        seconds.append(time.process_time() - began)
    return 2 * SIDE**3 / 1e9 / min(seconds)


def together(store: Path, epochs: int, processes: int) -> float:
    """Clips a second of so many processes that train one network."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _one_of, (store, epochs, processes, Path(folder)), nprocs=processes
        )
        rates: list[float] = json.loads((Path(folder) / "rates").read_text())
    return statistics.median(rates[epochs // 2 :])


def _one_of(rank: int, store: Path, epochs: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = (folder / "meeting").as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    rates: list[float] = []
    Network.of(store).train(epochs, lambda epoch: rates.append(epoch.clips_per_second))
    if rank == 0:
        (folder / "rates").write_text(json.dumps(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--epochs", type=int, default=18, help="of each loop; 2 or more (18)")
    add("--processes", type=int, metavar="N", help="compare N processes with one")
    add("--data", type=Path, metavar="DIR", help="the dataset's clip store, if prepared")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = given.data or Path(folder) / "embedded"
        prepare_embedded(store)
        network = Network.of(store)
        ours, bare = epoch_seconds(network, given.epochs)
        work, most = network.gigaflops(), matrix_gigaflops()
        print(
            f"processor seconds of an epoch of {len(network.clips())} clips, {processor()}, "
            f"torch {torch.__version__}"
        )
        for name, seconds in (("bare loop", bare), ("our loop", ours)):
            median = statistics.median(seconds)
            print(
                f"{name:10} {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
                f"{work / median:.0f} GFLOP/s, {work / median / most:.0%} of a matrix product's"
            )
        ratio = statistics.median(bare) / statistics.median(ours)
        print(f"our loop against the bare one: {ratio:.2f}×")
        if given.processes:
            rates = [together(store, given.epochs, count) for count in (1, given.processes)]
            print(
                f"{given.processes} processes against one: {rates[1] / rates[0]:.2f}× "
                f"({rates[1]:.0f} and {rates[0]:.0f} clips a second)"
            )


if __name__ == "__main__":
    main()
