"""Make tiny from nothing: expected answers, tokenizer, training, conversion, check.

`python build.py [--out FOLDER] [--trainer PYTHON] [--steps N]`. `--trainer` names another interpreter for the
steps that need transformers with torch, when torch lives in an environment of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
SHIPPED = HERE.parent.parent / "mlxk" / "store" / "tiny"


def step(python: str, script: str, *arguments: str) -> None:
    print(f"== {script} {' '.join(arguments)}", flush=True)
    subprocess.run([python, str(HERE / script), *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=str(SHIPPED))
    parser.add_argument("--trainer", default=sys.executable)
    parser.add_argument("--steps", help="fewer steps for a trial")
    args = parser.parse_args()
    steps = ["--steps", args.steps] if args.steps else []
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, mean, *stages = (f"{scratch}/{n}" for n in ("tokenizer", "mean", "one", "two", "three"))
        step(sys.executable, "expected.py")
        step(args.trainer, "build_tokenizer.py", tokenizer)
        for number, (start, done) in enumerate(pairwise((tokenizer, *stages)), 1):
            step(args.trainer, "train.py", start, done, "--stage", str(number), *steps)
        step(args.trainer, "average.py", mean, *stages)
        step(sys.executable, "convert.py", mean, args.out)
        step(sys.executable, "check.py", args.out)


if __name__ == "__main__":
    main()
