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
``at once`` has what fitted. Needs torch, torchvision and what the clip store's reader imports.
``benchmarks/throughput.csv``, where it is there, is what it wrote on the hardware that it names.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from search_spaces.space import Space
from study.data.transforms import model_inputs
from study.training.hyperparameters import Hyperparameters
from study.training.loop import put_channels_last

CLASSES = 101  # UCF101's
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


@dataclass(frozen=True, kw_only=True)
class System:
    """One system as its paper trains it."""

    label: str
    model: str
    options: dict[str, Any]
    hyperparameters: Hyperparameters

    @classmethod
    def of(cls, space: Space, arm_name: str, label: str) -> "System":
        arm = space.arm(arm_name)
        settings = space.settings.updated(arm.own)
        options = {
            name: value for name, value in settings.options.items() if name in arm.known_options
        }
        hyperparameters = Hyperparameters(**settings.hyperparameters)
        if "flow_length" in arm.known_options:
            options["flow_length"] = hyperparameters.flow_length
        return cls(label=label, model=arm.model, options=options, hyperparameters=hyperparameters)


def random_clips(model: VideoModel, system: System, batch: int) -> dict[str, Tensor]:
    """A batch as the loader gives it: (B, T, C, S, S) bytes, RGB's channels last in memory."""
    sizes = system.hyperparameters
    shape = (batch, sizes.segments, sizes.crop_size, sizes.crop_size)
    clips = {
        "rgb": torch.randint(256, (*shape, 3), dtype=torch.uint8).movedim(-1, -3),
        "flow": torch.randint(256, (*shape, 2 * sizes.flow_length), dtype=torch.uint8)
        .movedim(-1, -3)
        .contiguous(),
    }
    return {name: clips[name] for name in model.inputs}


def make_step(
    model: VideoModel, system: System, batch: int, device: torch.device
) -> Callable[[], None]:
    """A forward and a backward pass of a batch, its bytes already on the device."""
    clips = {name: x.to(device) for name, x in random_clips(model, system, batch).items()}
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
    system: System, device: torch.device, *, batch: int | None, steps: int, peak: float
) -> dict[str, Any]:
    """One line of the table; the batch is halved until it fits."""
    torch.manual_seed(0)
    model = create_model(system.model, num_classes=CLASSES, **system.options)
    put_channels_last(model.to(device).train())
    wanted = batch or system.hyperparameters.batch_size
    at_once = wanted
    while True:
        try:
            step = make_step(model, system, at_once, device)
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
        "system": system.label,
        "model": system.model,
        "frames": system.hyperparameters.segments,
        "size": system.hyperparameters.crop_size,
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
    systems = {label: System.of(space, arm, label) for space, arm, label in final_arms()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--systems", nargs="+", choices=systems, metavar="SYSTEM", help=", ".join(systems)
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
        measure(systems[label], device, batch=given.batch, steps=given.steps, peak=peak)
        for label in track(given.systems or systems, "measuring", transient=True)
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
