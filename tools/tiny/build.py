"""Make tiny from nothing: expected answers, tokenizer, training, conversion, check.

`python build.py [--out FOLDER] [--trainer PYTHON] [--steps N]`. `--trainer` names another interpreter for the
two steps that need transformers with torch, when torch lives in an environment of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
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
        tokenizer, first, trained = (f"{scratch}/{name}" for name in ("tokenizer", "first", "trained"))
        step(sys.executable, "expected.py")
        step(args.trainer, "build_tokenizer.py", tokenizer)
        step(args.trainer, "train.py", tokenizer, first, *steps)
        step(args.trainer, "train.py", first, trained, "--stage", "2", *steps)
        step(sys.executable, "convert.py", trained, args.out)
        step(sys.executable, "check.py", args.out)


if __name__ == "__main__":
    main()
