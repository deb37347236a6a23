"""What a study of real clips takes, and what it comes to: README's own commands, typed.

    python -m benchmarks.clips [--data DIR]

DIR/videos/weizmann holds the Weizmann dataset: a folder for each of ten actions, with a clip of
each of nine persons. Runs README's commands on it in a temporary folder, one after the other, and
writes their wall time, the disk that they take and the table into README.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.readme import README, block
from benchmarks.real_clips import real_clips
from study.durations import told_duration
from study.results.store import ResultStore
from study.sizes import told_bytes

ROOT = Path(__file__).parents[1]
MARK = "<!-- python -m benchmarks.clips writes what follows -->\n"
STUDY = "stilt-weizmann"


def commands(text: str) -> list[list[str]]:
    """Returns the commands above the mark, of the last console block there."""
    above = text.partition(MARK)[0].replace("\\\n", "")
    return [
        shlex.split(line[2:])
        for line in above.split("```console\n")[-1].split("```")[0].splitlines()
    ]


def written(text: str, shown: str) -> str:
    """Returns a text with a block after the mark, in the place of one that is there.

    Raises:
        ValueError: If the text has no mark.
    """
    before, mark, after = text.partition(MARK)
    if not mark:
        raise ValueError(f"there is no {MARK!r} in the text")
    rest = re.sub(r"\A```\n.*?^```\n", "", after, flags=re.DOTALL | re.MULTILINE)
    return f"{before}{MARK}```\n{shown}```\n{rest}"


def size(folder: Path) -> str:
    return told_bytes(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=real_clips(), metavar="DIR")
    videos = parser.parse_args().data.resolve() / "videos" / "weizmann"
    if not videos.is_dir():
        parser.error(f"there is no folder {videos}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "weizmann").symlink_to(videos)
        took = []
        for _, *words in commands(README.read_text()):
            began = time.monotonic()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, *words], cwd=work, env=environment, check=True)
            took.append(told_duration(time.monotonic() - began))
        stored, kept = size(work / "stores"), size(work / "results")
        shown = (
            f"prepared in {took[0]}: {stored}; studied in {took[1]}: {kept}; "
            f"on {os.cpu_count()} cores without a GPU\n\n"
            f"{block(ResultStore(work / 'results'), STUDY)}"
        )
        README.write_text(written(README.read_text(), shown))
        print(shown)


if __name__ == "__main__":
    main()
