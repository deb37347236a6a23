"""``python -m study.predict``: a trained, fused arm on new videos, in one command."""

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from study.command import DONE, Parser, add_arm_flags, ended
from study.data.store.preparation import Progress
from study.overlay import draw_overlay
from study.prediction import PreparedVideos, TrainedArm, find_arm, prepared
from study.results.store import open_results

__all__ = ["main"]

LINE_SECONDS = 10.0  # between lines of progress where the output is no terminal
EXAMPLES = """\
examples:
  python -m study.predict --study stilt-embedded --arm stil-awf-simplex walk.avi run.mp4
      the five likeliest classes of two videos
  python -m study.predict --study stilt-embedded --arm stil --format csv clips/*.avi > classes.csv
  python -m study.predict --study stilt-embedded --arm stil --overlay seen.mp4 walk.avi
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    given = _parser().parse_args(arguments)
    return ended("study.predict", partial(_predict, given))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.predict",
        description="Decodes videos, computes their flow, and fuses the streams' scores as an arm "
        "of a finished study does. Progress goes to the standard error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="a video file, or a folder of frames")
    add_arm_flags(parser)
    add("--top", type=int, default=5, metavar="K", help="classes of each video (default: 5)")
    add("--format", choices=tuple(_PRINTERS), default="text", help="(default: text)")
    add("--overlay", type=Path, metavar="FILE", help="draw the classes on the one video: an MP4")
    add(
        "--clips",
        type=Path,
        metavar="FILE",
        help="write the clips that the networks see, as an exported program takes them "
        "(safetensors)",
    )
    add(
        "--flow",
        type=Path,
        metavar="DIR",
        help="flow computed before, for a network that was trained on such",
    )
    add(
        "--device",
        help="cpu or cuda (default: a GPU where there is one)",
        default="cuda" if torch.cuda.is_available() else "cpu",
    )
    add("--workers", type=int, metavar="N", help="processes that decode (default: one each core)")
    return parser


def _predict(given: argparse.Namespace) -> int:
    _check(given)
    arm = find_arm(
        open_results(given.results),
        study=given.study,
        arm=given.arm,
        split=given.split,
        seed=given.seed,
        protocol=given.protocol,
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with (
        _Display(console) as display,
        prepared(
            given.videos,
            arm,
            flow_folder=given.flow,
            workers=given.workers,
            progress=display.prepared,
        ) as videos,
    ):
        for path, reason in videos.skipped.items():
            console.print(f"[bold yellow]skipped[/] {escape(path)}: {escape(reason)}")
        if not videos.videos:
            raise RuntimeError("no video could be used; the reasons are above")
        found = _classified(arm, videos, given, display)
    _PRINTERS[given.format](found, videos.skipped)
    if given.overlay is not None:
        lines = [f"{one['score']:.3f}  {one['class']}" for one in found[0]["classes"]]
        draw_overlay(Path(videos.paths[0]), lines, given.overlay)
    return DONE


def _check(given: argparse.Namespace) -> None:
    """Checks what needs no results, before anything is read."""
    if given.top < 1:
        raise ValueError(f"--top must be at least 1, got {given.top}")
    if given.overlay is not None and len(given.videos) > 1:
        raise ValueError(f"--overlay draws on one video, got {len(given.videos)}")
    for flag, file in (("--overlay", given.overlay), ("--clips", given.clips)):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"{flag} {file}: there is no folder {file.absolute().parent}")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here; give --device cpu")


def _classified(
    arm: TrainedArm, videos: PreparedVideos, given: argparse.Namespace, display: "_Display"
) -> list[dict[str, Any]]:
    """Returns the likeliest classes of each video."""
    display.show("scored", 0, len(videos.videos))
    scores = arm.score(
        videos.store,
        videos.videos,
        device=given.device,
        progress=lambda done: display.show("scored", done, len(videos.videos)),
    )
    if given.clips is not None:
        safetensors.torch.save_file(arm.clips(videos.store, videos.videos), given.clips)
    fused = arm.fuse(scores)
    best = (-fused).argsort(axis=1, kind="stable")[:, : given.top]
    return [
        {
            "video": path,
            "classes": [
                {
                    "class": arm.network.classes[label],
                    "label": int(label),
                    "score": float(fused[number, label]),
                    "streams": {
                        stream: float(matrix[number, label])
                        for stream, matrix in scores.scores.items()
                    },
                }
                for label in best[number]
            ],
        }
        for number, path in enumerate(videos.paths)
    ]


class _Display:
    """How far the work is: a bar on a terminal, a line now and then where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._phase = ""
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> "_Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def prepared(self, progress: Progress) -> None:
        """Shows how many videos are decoded, their flow included."""
        self.show("decoded", progress.done, progress.total)

    def show(self, phase: str, done: int, total: int) -> None:
        """Shows how many videos a phase has done."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, now
        rate = f"{done / (now - self._began):.1f} videos/s" if done and now > self._began else ""
        self._bar.update(self._task, description=phase, total=total, completed=done, rate=rate)
        if not self._console.is_terminal and now - self._printed > LINE_SECONDS:
            self._printed = now
            self._console.print(f"{phase} {done} of {total} videos, {rate}")


def _print_text(found: Sequence[dict[str, Any]], skipped: object) -> None:
    for one in found:
        print(one["video"])
        for line in one["classes"]:
            print(f"  {line['score']:8.4f}  {line['class']}")


def _print_csv(found: Sequence[dict[str, Any]], skipped: object) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["video", "rank", "class", "label", "score"])
    for one in found:
        for rank, line in enumerate(one["classes"], start=1):
            writer.writerow([one["video"], rank, line["class"], line["label"], line["score"]])


def _print_json(found: Sequence[dict[str, Any]], skipped: Any) -> None:
    left_out = [{"video": path, "skipped": reason} for path, reason in skipped.items()]
    print(json.dumps([*found, *left_out], indent=1, ensure_ascii=False))


_PRINTERS = {"text": _print_text, "csv": _print_csv, "json": _print_json}


if __name__ == "__main__":
    sys.exit(main())
