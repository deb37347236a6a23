"""Kills studies and preparations at random moments, and checks that nothing is lost by it.

``python -m tests.integration.kills --rounds 200 --seed 1``. A round starts a command in an empty
folder, kills a part of it with SIGKILL, and starts the command again until it ends. Then all that
it wrote must be, to the last bit, what an uninterrupted run wrote.
"""

import argparse
import ctypes
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.data.datasets import embedded
from study.data.store.clip_store import ClipStore
from study.results.store import ResultStore
from tests.conftest import CLASSES, videos_of
from tests.integration.conftest import environment, small, study_command
from tests.integration.processes import session, shared_memory_left

LONGEST = 600.0  # seconds that a command may take on a busy machine
GONE_WITHIN = 300.0  # seconds in which the processes of a killed command end by themselves
STARTS = 4  # of a command that was killed, until it ends well

STORE = "store"
CLIPS = 5  # of each class: as few as leave videos in every part

TARGETS: dict[str, Callable[[str], bool]] = {
    "job": lambda line: line.startswith("ray::ImplicitFunc"),
    "raylet": lambda line: "/raylet/raylet " in line,
    "gcs": lambda line: "/gcs/gcs_server " in line,
    "worker": lambda line: "study.data.process" in line,
}
STUDY_TARGETS = ("driver", "job", "raylet", "gcs", "everything")
PREPARATION_TARGETS = ("driver", "worker", "everything")

VIEWS = (
    *("trials", "rows", "trainings", "epochs"),
    *("validation_scores", "scores", "features", "predictions"),
)
OF_THE_RUN = {
    *("seconds", "clips_per_second", "started_at", "peak_memory_bytes"),
    *("git_commit", "dirty"),
}


class FindingError(AssertionError):
    """What a kill broke."""


@dataclass(frozen=True)
class Subject:
    """A command that is killed.

    Attributes:
        command: The command line, given the folder that it writes to.
        targets: What of it can be killed.
        content: All that it wrote, as plain values that can be compared.
        seconds: How long it takes uninterrupted.
        expected: What it writes uninterrupted.
    """

    command: Callable[[Path], list[str]]
    targets: tuple[str, ...]
    content: Callable[[Path], Any]
    seconds: float = 0.0
    expected: Any = None

    def measured(self, folder: Path) -> "Subject":
        """Returns the subject with what an uninterrupted run takes and writes."""
        began = time.monotonic()
        with checkpoints_written(folder) as saved:
            done = run(self.command(folder), folder)
            seconds, saves = time.monotonic() - began, saved()
        if done.returncode:
            raise FindingError(f"the uninterrupted run failed: {done.stderr}")
        expected = self.content(folder), saves
        return Subject(self.command, self.targets, self.content, seconds, expected)


def subjects(folder: Path) -> dict[str, Subject]:
    """Makes what the rounds work on: a study of a tiny store, and the preparation of the store."""
    videos = [video for name in CLASSES for video in videos_of(name)[:CLIPS]]
    embedded.render_dataset(folder / "videos", videos)

    def prepare(written: Path) -> list[str]:
        command = [sys.executable, "-m", "study.prepare", "folder", "--store", str(written / STORE)]
        command += ["--videos", str(folder / "videos"), "--short-side", "32", "--stacks", "2"]
        return [*command, "--flow-length", "3", "--workers", "2"]

    def study(results: Path) -> list[str]:
        return study_command(
            folder / "prepared" / STORE,
            results,
            *("--trials", "3", "--at-once", "2", "--arms", "stil"),
            *("--set", *small()),
        )

    preparation = Subject(prepare, PREPARATION_TARGETS, store_content)
    preparation = preparation.measured(folder / "prepared")
    searched = Subject(study, STUDY_TARGETS, study_content).measured(folder / "uninterrupted")
    return {"study": searched, "prepare": preparation}


def store_content(folder: Path) -> Any:
    """Returns what a clip store holds: its fingerprint, which is checked, and its videos."""
    store = ClipStore.open(folder / STORE)
    return store.fingerprint, sorted(store.names), list(store.verify())


def study_content(folder: Path | str) -> Any:
    """Returns all lines of a study's results, but for when and how fast they came."""
    content = {}
    for view in VIEWS:
        lines = ResultStore(folder).read(view).to_pylist()
        kept = [{name: line[name] for name in line.keys() - OF_THE_RUN} for line in lines]
        content[view] = sorted(repr(sorted(line.items())) for line in kept)
    return content


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, and waits for all of its processes."""
    process = start(command, folder)
    try:
        output, errors = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        kill(session(process.pid))
        raise FindingError(f"the command hung: {process.communicate()}") from None
    wait_until_gone(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def start(command: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Starts a command in a session of its own; Ray's files go where the round's others go."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "RAY_TMPDIR": str(folder.parent)},
        start_new_session=True,
    )


def wait_until_gone(leader: int) -> None:
    """Waits for a session's processes to end.

    Raises:
        FindingError: If some don't; they are killed.
    """
    deadline = time.monotonic() + GONE_WITHIN
    while left := session(leader):
        if time.monotonic() > deadline:
            kill(left)
            raise FindingError(f"processes left: {sorted(left.values())}")
        time.sleep(0.1)


def kill(processes: dict[int, str]) -> None:
    """Kills processes, which may have ended in the meantime."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_part(process: "subprocess.Popen[str]", target: str, rng: random.Random) -> bool:
    """Kills a part of a running command, as soon as it has that part; whether it ever did."""
    while process.poll() is None:
        processes = session(process.pid)
        if target == "everything":
            kill(processes)
            return True
        wanted = [
            pid for pid, line in processes.items() if target in TARGETS and TARGETS[target](line)
        ]
        if target == "driver":
            wanted = [process.pid]
        if wanted:
            kill({rng.choice(sorted(wanted)): ""})
            return True
        time.sleep(0.02)
    return False


@contextmanager
def checkpoints_written(results: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """Counts how often each checkpoint takes its place: once for each job that trains to its end.

    The study's epochs are too short to write checkpoints between them.

    Yields:
        What returns the counts so far, by the checkpoint's name.
    """
    folder = results / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    libc, moved_to = ctypes.CDLL(None, use_errno=True), 0x80
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), moved_to) < 0:
        raise OSError(ctypes.get_errno(), "the folder of checkpoints can't be watched")
    counts: Counter[str] = Counter()
    done = threading.Event()

    def count() -> None:
        """Reads at once what happens: the kernel makes one of like events that wait unread."""
        while not done.is_set() or select.select([descriptor], [], [], 0)[0]:
            if select.select([descriptor], [], [], 0.1)[0]:
                events = os.read(descriptor, 1 << 16)
                while events:
                    (size,) = struct.unpack_from("I", events, 12)
                    counts[events[16 : 16 + size].rstrip(b"\0").decode()] += 1
                    events = events[16 + size :]

    def counted() -> dict[str, int]:
        done.set()
        counting.join()
        return dict(counts)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        yield counted
    finally:
        done.set()
        counting.join()
        os.close(descriptor)


def one_round(subject: Subject, rng: random.Random) -> str:
    """Kills a part of a command, lets it end, and compares what it wrote.

    Returns:
        What was killed and when.

    Raises:
        FindingError: If anything isn't as if nobody had killed it.
    """
    root = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    folder, shared = root / "written", {path.name for path in Path("/dev/shm").iterdir()}
    told: list[str] = []
    killed: list[int] = []
    try:
        with checkpoints_written(folder) as saved:
            for _ in range(rng.choice((1, 1, 2))):
                target = rng.choice(subject.targets)
                after = rng.uniform(0.0, subject.seconds)
                told.append(f"{target} after {after:.2f} s")
                leader, became = start_and_kill(subject, folder, target, after, rng)
                killed.append(leader)
                told[-1] += f" ({became})"
            finish(subject, folder, told)
            for leader in killed:
                wait_until_gone(leader)
            check(subject, folder, saved(), shared)
    except FindingError as finding:
        raise FindingError(f"{'; '.join(told)}: {finding}") from None
    finally:
        for leader in killed:
            kill(session(leader))
        shutil.rmtree(root, ignore_errors=True)
    return "; ".join(told)


def start_and_kill(
    subject: Subject, folder: Path, target: str, after: float, rng: random.Random
) -> tuple[int, str]:
    """Starts a command and kills a part of it, and waits for the command but not for what it left.

    Returns:
        The command's process id, and what became of it.
    """
    process = start(subject.command(folder), folder)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    killed = kill_part(process, target, rng)
    try:
        _, errors = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        kill(session(process.pid))
        raise FindingError("the command hung after it") from None
    check_said(process.returncode, errors)
    return process.pid, f"exit {process.returncode}" if killed else "it had ended"


def check_said(status: int, errors: str) -> None:
    """Checks that a command that lost a part of it ends well, or says why not in a line."""
    if status not in (0, 1, -signal.SIGKILL):
        raise FindingError(f"exit {status}: {errors[-2000:]}")
    if "Traceback" in errors or (status == 1 and not errors.strip()):
        raise FindingError(f"exit {status} with other than a line of error: {errors[-2000:]}")


def finish(subject: Subject, folder: Path, told: list[str]) -> None:
    """Starts a command until it ends well."""
    for _ in range(STARTS):
        done = run(subject.command(folder), folder)
        if done.returncode == 0:
            return
        told.append(f"again: exit {done.returncode}: {done.stderr[-500:]}")
    raise FindingError("the command never ended well")


def check(subject: Subject, folder: Path, saved: dict[str, int], shared: set[str]) -> None:
    """Checks what is left when a command has ended well."""
    content, saves = subject.expected
    found = subject.content(folder)
    if found != content:
        raise FindingError(f"other content: {difference(content, found)}")
    if more := {name: times for name, times in saved.items() if times > saves.get(name, 0)}:
        raise FindingError(
            f"epochs trained again although checkpoints held them: {more}, not {saves}"
        )
    if strays := [path for path in folder.rglob("*") if path.name.endswith(".tmp")]:
        raise FindingError(f"files left: {strays}")
    if ray := list((folder / "ray").glob("*")):
        raise FindingError(f"Ray's files left: {ray}")
    if left := shared_memory_left(shared):
        raise FindingError(f"shared memory left: {left}")


def difference(expected: Any, found: Any) -> str:
    """Returns what differs, in short."""
    if not isinstance(expected, dict):
        return f"{found!r:.500}, not {expected!r:.500}"
    return "; ".join(
        f"{view}: {len(found[view])} lines, expected {len(lines)}, "
        f"first {next(iter(set(found[view]) ^ set(lines)), 'repeated')!s:.500}"
        for view, lines in expected.items()
        if found[view] != lines
    )


def kill_rounds(rounds: int, seed: int, *, say: Callable[[str], None] = print) -> list[str]:
    """Does rounds of kills; every third is of a preparation.

    Args:
        rounds: How many.
        seed: Of what is killed and when.
        say: Receives a line for each round.

    Returns:
        What was found, with the seed and round that found it.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="kills-", dir="/tmp") as folder:
        known = subjects(Path(folder))
        for number in range(rounds):
            name = "prepare" if number % 3 == 1 else "study"
            try:
                told = one_round(known[name], random.Random(f"{seed}/{number}"))
                say(f"seed {seed} round {number}: {name}: ok: {told}")
            except FindingError as finding:
                found.append(f"seed {seed} round {number}: {name}: FOUND: {finding}")
                say(found[-1])
    return found


def main() -> int:
    """Does the rounds that the command line asks for; 1 when they found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found = kill_rounds(given.rounds, given.seed, say=lambda line: print(line, flush=True))
    print(f"{given.rounds} rounds of seed {given.seed}: {len(found)} found something")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
