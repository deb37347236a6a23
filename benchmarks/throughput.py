"""Training throughput of every system at its paper's input size and batch, on one GPU.

    python -m benchmarks.throughput [--systems NAME ...] [--batch N] [--steps N] [--output FILE]

A step is a forward and a backward pass of the system's final form as `study.training.loop` makes
it: autocast to bfloat16, channels last, no ``torch.compile``. Clips are random bytes, normalised on
the device within the step; loading and the optimiser's step are left out. For each system:

- clips a second: the batch over the median step.
- share of the peak: multiply-adds that the step does, twice over (a multiply and an add), against
  what one large bfloat16 matrix product reaches on the same device just before.
- memory: the most that the device had allocated.

A batch that doesn't fit is halved until it does, as accumulated gradients would; the column
``at once`` has what fitted. Needs no Ray and no clip store.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models import VideoModel, create_model
from search_spaces.all import final_arms
from study.data.clips.transforms import model_inputs
from study.plan import Target, Training, make_training, settings_of
from study.training.loop import put_channels_last

CLASSES = 101  # UCF101's
TARGET = Target(dataset="random", store_fingerprint="", split="")
MATRIX = 8192  # side of the matrices that the peak is measured with
WARM_UP = 3
COLUMNS = (
    "system",
    "model",
    "frames",
    "size",
    "batch",
    "at_once",
    "clips_per_second",
    "tflops",
    "peak_share",
    "memory_gib",
    "hardware",
)


def systems() -> dict[str, Training]:
    """By its label, how each system's paper trains it."""
    return {
        label: make_training(
            space.arm(name).model,
            settings_of(space.arm(name), space.settings, space=space),
            target=TARGET,
            seed=0,
        )
        for space, name, label in final_arms()
    }


def random_clips(model: VideoModel, training: Training, batch: int) -> dict[str, Tensor]:
    """A batch as the loader gives it: (B, T, C, S, S) bytes, RGB's channels last in memory."""
    sizes = training.hyperparameters
    clip, image = (batch, sizes.segments), (sizes.crop_size, sizes.crop_size)
    shapes = {"rgb": (*clip, *image, 3), "flow": (*clip, 2 * sizes.flow_length, *image)}
    clips = {kind: torch.randint(256, shapes[kind], dtype=torch.uint8) for kind in model.inputs}
    return {kind: x.movedim(-1, -3) if kind == "rgb" else x for kind, x in clips.items()}


def make_step(
    model: VideoModel, training: Training, batch: int, device: torch.device
) -> Callable[[], None]:
    """A forward and a backward pass of a batch, its bytes already on the device."""
    clips = {name: x.to(device) for name, x in random_clips(model, training, batch).items()}
    labels = torch.randint(CLASSES, (batch,), device=device)

    def step() -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            output = model(**model_inputs(clips, device))
        classified = (*output.logits.values(), *output.auxiliary_logits.values())
        losses = [F.cross_entropy(logits.float(), labels) for logits in classified]
        losses += [loss.float().mean() for loss in output.auxiliary_losses.values()]
        torch.stack(losses).sum().backward()

    return step


def seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of the repeats, each waited for."""
    for _ in range(WARM_UP):
        action()
    taken = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        action()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, side: int, repeats: int) -> float:
    """Operations a second of a bfloat16 matrix product, an addition and a multiplication two."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, repeats)


def measure(
    label: str,
    training: Training,
    device: torch.device,
    *,
    batch: int | None,
    steps: int,
    peak: float,
) -> dict[str, Any]:
    """One line of the table; the batch is halved until it fits."""
    torch.manual_seed(0)
    model = create_model(training.model, num_classes=CLASSES, **training.options)
    put_channels_last(model.to(device).train())
    wanted = batch or training.hyperparameters.batch_size
    at_once = wanted
    while True:
        try:
            step = make_step(model, training, at_once, device)
            with FlopCounterMode(display=False) as counter:
                step()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            rate = at_once / seconds(step, device, steps)
            break
        except torch.cuda.OutOfMemoryError:
            if at_once == 1:
                raise
        model.zero_grad()
        torch.cuda.empty_cache()
        at_once //= 2
    speed = counter.get_total_flops() / at_once * rate
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "system": label,
        "model": training.model,
        "frames": training.hyperparameters.segments,
        "size": training.hyperparameters.crop_size,
        "batch": wanted,
        "at_once": at_once,
        "clips_per_second": round(rate, 1),
        "tflops": round(speed / 1e12, 2),
        "peak_share": round(speed / peak, 3),
        "memory_gib": None if memory is None else round(memory, 1),
    }


def show(lines: list[dict[str, Any]], console: Console, title: str) -> None:
    table = Table(title=title)
    for name in COLUMNS[:-1]:
        table.add_column(name.replace("_", " "), justify="left" if name == "system" else "right")
    for line in lines:
        shown = {**line, "peak_share": f"{line['peak_share']:.1%}"}
        table.add_row(*("–" if shown[name] is None else str(shown[name]) for name in COLUMNS[:-1]))
    console.print(table)


def main() -> None:
    known = systems()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--systems", nargs="+", choices=known, metavar="NAME", help=", ".join(known)
    )
    parser.add_argument("--batch", type=int, help="instead of each paper's")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each (20)")
    parser.add_argument("--output", type=Path, help="also write the table as CSV")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cuda where there is one; cpu shows that it runs, at --batch 1, say",
    )
    given = parser.parse_args()
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"
    console = Console(width=140, highlight=False)
    peak = matrix_peak(device, MATRIX if cuda else MATRIX // 8, given.steps)
    lines = [
        measure(label, known[label], device, batch=given.batch, steps=given.steps, peak=peak)
        for label in track(given.systems or known, "measuring", transient=True)
    ]
    title = (
        f"forward + backward, bfloat16, channels last: {hardware}, torch {torch.__version__}; "
        f"matrix peak {peak / 1e12:.1f} TFLOP/s"
    )
    show(lines, console, title)
    if given.output:
        with given.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({**line, "hardware": hardware} for line in lines)


if __name__ == "__main__":
    main()
