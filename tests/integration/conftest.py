"""A clip store small enough to train on in a second, and a way to run the commands on it."""

import os
import sys
from pathlib import Path

from rich.console import Console

from study.conduct import Conductor
from study.job import run_job
from study.request import Study
from study.searches import searches_of
from study.terminal import Terminal

ROOT = Path(__file__).parents[2]


def run_here(study: Study) -> Conductor:
    """Runs a study's jobs in this process, one after the other: the whole study without Ray."""
    with Terminal(Console(quiet=True)).at_work() as display:
        conductor = Conductor(study, searches_of(study), display)
        while not conductor.done:
            job = conductor.next_job()
            assert job is not None, "something may always run until all is done"
            conductor.started(job)
            run_job(job)
            conductor.ended(job)
    return conductor


def study_command(store: Path, results: Path, *arguments: str) -> list[str]:
    """The command line of a study that takes a second or two to train."""
    command = [sys.executable, "-m", "study.run", "--space", "stilt"]
    command += ["--data", str(store), "--results", str(results), "--weights", "none"]
    if "--set" not in arguments:
        command += ["--set", *small()]
    if "--seeds" not in arguments:
        command += ["--seeds", "1"]
    return [*command, *arguments]


def small(*changes: str) -> list[str]:
    """What ``--set`` needs for trainings of a second or two, with other values for some."""
    named = {text.partition("=")[0] for text in changes}
    return [*(text for text in SMALL if text.partition("=")[0] not in named), *changes]


SMALL = (
    "options.backbone=small",
    "options.partial_bn=false",
    "options.head_dims=[16,16]",
    "options.attention_dim=128",
    "segments=2",
    "test_segments=2",
    "batch_size=8",
    "epochs=2",
)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
