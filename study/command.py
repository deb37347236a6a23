"""What the commands share: exit codes, how they end, and the flags that name a trained arm."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from study.results.store import DamagedResultError

__all__ = [
    "DONE",
    "FAILED",
    "REFUSED",
    "Parser",
    "add_arm_flags",
    "check_output",
    "ended",
    "stopped",
]

DONE, FAILED, REFUSED = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """Refuses flags in a line, where argparse prints all of them first."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        command = self.prog.removeprefix("python -m ")
        self.exit(REFUSED, f"{command}: {message}; --help shows all flags\n")


def ended(command: str, work: Callable[[], int]) -> int:
    """Runs a command's work and returns the exit code; says in a line why it stopped."""
    try:
        return work()
    except KeyboardInterrupt:
        return stopped(command, "interrupted", FAILED)
    except DamagedResultError as error:
        return stopped(command, str(error), FAILED)
    except (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return stopped(command, str(error), REFUSED)
    except (OSError, RuntimeError) as error:
        return stopped(command, str(error), FAILED)


def stopped(command: str, message: str, code: int) -> int:
    """Prints why a command stopped; returns the exit code."""
    print(f"{command}: {message}", file=sys.stderr)
    return code


def check_output(file: Path) -> None:
    """Checks that a command's ``--output`` can become a file.

    Raises:
        OSError: If it is a folder, or its folder is missing.
    """
    if file.is_dir():
        raise IsADirectoryError(f"--output {file} is a folder; name a file, such as report.html")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"--output {file}: there is no folder {file.parent}")


def add_arm_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a trained arm, as `study.prediction.find_arm` takes them."""
    add = parser.add_argument
    add("--study", required=True, metavar="NAME", help="the study")
    add("--arm", required=True, help="the arm")
    add("--split", metavar="NAME", help="the split trained on (default: the first)")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="the seed (default: the best on validation of those whose networks are kept)",
    )
    add("--protocol", metavar="HASH", help="the protocol, or its first digits (default: the last)")
    add("--results", default="results", metavar="DIR", help="folder or URI (default: results)")
