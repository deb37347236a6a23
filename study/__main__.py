"""``two-stream-study COMMAND …``, which is ``python -m study COMMAND …``: every command in one."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]

COMMANDS = {
    "prepare": "decode videos and compute their flow, once, into a clip store",
    "run": "search, then train and score the ablation at the found settings",
    "query": "SQL over the results, and the papers' tables",
    "report": "one HTML page of tables, comparisons and curves",
    "gallery": "test videos that arms get right and wrong, and where their networks look",
    "predict": "a trained, fused network's classes of new videos",
    "export": "a trained, fused network as files that run without this project",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 failed, 2 refused input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given[:1])
    # Only the chosen command is imported: `run` takes seconds for Ray and torch.
    code: int = import_module(f"study.{options.command}").main(given[1:])
    return code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="two-stream-study",
        description="Studies of two-stream (RGB + optical flow) action recognition.",
        epilog=f"commands:\n{commands}\n\ntwo-stream-study COMMAND --help says what each takes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
