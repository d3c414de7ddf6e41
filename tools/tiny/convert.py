"""Convert the trained checkpoint with `mlx_lm` and lay out the folder that ships.

`python convert.py HF_FOLDER OUT_FOLDER`. Needs mlx-lm, not torch. The folder is built aside and moved into
place file by file, so that a server reading the old one never sees half a model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mlx_lm import convert

HERE = Path(__file__).parent
DTYPE = "bfloat16"
SHIPPED = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "README.md",
)  # fmt: skip


def tidy(folder: Path) -> None:
    """Put our model card in place of the generated one, and drop what only says how the files were saved."""
    shutil.copyfile(HERE / "model_card.md", folder / "README.md")
    rewrite(folder / "config.json", drop=(), torch_dtype=DTYPE)
    rewrite(folder / "generation_config.json", drop=("transformers_version",))
    # The plain fast tokenizer takes tokenizer.json as it is; Qwen's own class would normalize the text (NFC).
    drop = ("is_local", "local_files_only", "backend")
    rewrite(folder / "tokenizer_config.json", drop, tokenizer_class="PreTrainedTokenizerFast")


def rewrite(path: Path, drop: tuple[str, ...], **more: str) -> None:
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k not in drop} | more
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def install(built: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        fresh = out / f".{name}.new"
        shutil.copyfile(built / name, fresh)
        os.replace(fresh, out / name)


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "tiny"
        convert(str(source), mlx_path=str(built), dtype=DTYPE)
        tidy(built)
        install(built, out)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
