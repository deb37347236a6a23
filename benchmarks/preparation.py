"""What preparing a clip store takes in addition to its flow.

    python -m benchmarks.preparation [--data DIR] [--videos N]

Prepares real clips by one process at ``--stacks 3 --short-side 112``, and computes the flow of the
same frames alone. Both are processor time, that of all processes together: the decoder has its own,
and the machine may have other work. A store of two clips, without their flow, is what processes
take to start, which each store pays once. Flow's share of the rest is the rate of preparation over
the rate that flow alone would allow. Then the same runs again with nothing to do.
"""

import argparse
import ctypes
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from study.data.datasets.catalog import annotate
from study.data.flow.compute import compute_flow
from study.data.store.preparation import PreparationSummary, prepare
from study.data.store.settings import StoreSettings, stack_pairs, stack_starts
from study.data.video.reader import VideoReader

SETTINGS = StoreSettings(dataset="folder", stacks=3, short_side=112)
PR_SET_CHILD_SUBREAPER = 36


def processor_seconds() -> float:
    """Of this process and of all that it started and that ended, theirs included (Linux)."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def store(paths: Sequence[Path], folder: Path) -> tuple[float, PreparationSummary]:
    """Prepares the clips into FOLDER/store; returns the processor seconds that it took."""
    for path in paths:
        link = folder / "videos" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    before = processor_seconds()
    summary = prepare_folder(folder)
    time.sleep(1)  # until the decoders of processes that are gone are gone too
    return processor_seconds() - before, summary


def prepare_folder(folder: Path) -> PreparationSummary:
    """Prepares FOLDER/videos into FOLDER/store."""
    annotations = annotate("folder", videos=folder / "videos", splits=None, group="(.+)")
    return prepare(annotations, folder / "videos", folder / "store", SETTINGS, workers=1)


def flow_alone(paths: Sequence[Path]) -> float:
    """Processor seconds of the clips' flow."""
    taken = 0.0
    with VideoReader() as reader:
        for path in paths:
            count = reader.open(path).frames
            starts = stack_starts(count, SETTINGS)
            pairs = stack_pairs(starts, count, SETTINGS)
            needed = np.unique(np.concatenate([pairs, pairs + 1]))
            frames = reader.read(needed.tolist(), short_side=SETTINGS.short_side)
            gray = {
                int(k): cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
                for k, frame in zip(needed, frames, strict=True)
            }
            started = time.process_time()
            for run in np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1):
                compute_flow(np.stack([gray[k] for k in (*run.tolist(), int(run[-1]) + 1)]))
            taken += time.process_time() - started
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shared = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared, help="folder of the real clips")
    parser.add_argument("--videos", type=int, default=24, help="clips to take (24)")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    found = sorted((given.data / "videos" / "ucf101").glob("*/*.avi"))
    paths = found[:: max(1, len(found) // given.videos)][: given.videos]
    compute_flow(np.zeros((2, 20, 20), np.uint8))  # compiled or loaded before anything is timed
    with tempfile.TemporaryDirectory() as name:
        start, _ = store(paths[:2], Path(name) / "one")
        first = flow_alone(paths[:2])
        whole, summary = store(paths, Path(name) / "all")
        flow = flow_alone(paths)
        started = time.perf_counter()
        prepare_folder(Path(name) / "all")
        again = time.perf_counter() - started
    start -= first
    print(
        f"{summary.stored} clips in {whole:.1f} s of processor time, of which processes take "
        f"{start:.1f} s to start and flow takes {flow:.1f} s: {flow / (whole - start):.0%}\n"
        f"with nothing to do: {again:.2f} s"
    )


if __name__ == "__main__":
    main()
