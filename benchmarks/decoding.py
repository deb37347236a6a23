"""Frames a second by PyAV and by decord, and whose frames are right.

Both read every frame of the same files in order, as RGB, on one thread each. A frame is made up
when decord gives more frames than the file holds: it fills up with copies of the last.

    python -m benchmarks.decoding FOLDER…
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
from av.video.reformatter import VideoReformatter

SUFFIXES = {".avi", ".mkv", ".mp4", ".webm"}


def by_pyav(path: Path) -> int:
    """Reads all frames; returns how many."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        reformatter = VideoReformatter()
        count = 0
        for frame in container.decode(stream):
            reformatter.reformat(frame, format="rgb24").to_ndarray()
            count += 1
    return count


def by_decord(path: Path) -> int:
    """Reads all frames; returns how many."""
    reader = decord.VideoReader(str(path), num_threads=1)
    for _ in range(len(reader)):
        reader.next().asnumpy()
    return len(reader)


def measure(read: Callable[[Path], int], files: list[Path]) -> tuple[float, list[int]]:
    """Seconds for all files, and each one's frames."""
    began = time.perf_counter()
    counts = [read(path) for path in files]
    return time.perf_counter() - began, counts


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:]]
    if not folders or not all(folder.is_dir() for folder in folders):
        sys.exit(f"usage: python {sys.argv[0]} FOLDER…, each a folder of videos")
    print(f"{'folder':12} {'files':>6} {'PyAV':>9} {'decord':>9} {'ratio':>7}  frames made up")
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        for path in files:
            path.read_bytes()  # both read from the page cache
        ours, real = measure(by_pyav, files)
        theirs, given = measure(by_decord, files)
        made_up = sum(max(0, g - r) for g, r in zip(given, real, strict=True))
        print(
            f"{folder.name:12} {len(files):6} {sum(real) / ours:7.0f}/s {sum(real) / theirs:7.0f}/s"
            f" {theirs / ours:6.1f}×  {made_up} of {sum(given)}"
        )


if __name__ == "__main__":
    main()
