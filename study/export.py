"""``python -m study.export``: a trained, fused arm as files that run without this project."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from study.command import DONE, Parser, add_arm_flags, ended
from study.portable import check_onnx, write_export
from study.prediction import find_arm
from study.results.store import open_results
from study.sizes import told_bytes

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    given = _parser().parse_args(arguments)
    return ended("study.export", partial(_export, given))


def _export(given: argparse.Namespace) -> int:
    if given.onnx:
        check_onnx()
    results = open_results(given.results)
    arm = find_arm(
        results,
        study=given.study,
        arm=given.arm,
        split=given.split,
        seed=given.seed,
        protocol=given.protocol,
    )
    files = write_export(arm, results, given.output, onnx=given.onnx)
    print(f"{given.arm}, split {arm.row['split']}, seed {arm.row['seed']}, in {given.output}:")
    for file in files:
        print(f"  {file.name}  {told_bytes(file.stat().st_size)}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.export",
        description="Writes an arm of a finished study as files: weights, program (torch.export), "
        "fusion, labels, preprocessing, model card, and an example that runs them without this "
        "project.",
        epilog="example: python -m study.export --study stilt-embedded --arm stil-awf-simplex "
        "--output stil",
    )
    add = parser.add_argument
    add_arm_flags(parser)
    add("--output", required=True, type=Path, metavar="DIR", help="a new or an empty folder")
    add("--onnx", action="store_true", help="write program.onnx too; needs the extra 'onnx'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
