"""Background removal with rembg, by a model that is chosen by name and verified by its checksum."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from pipeline.errors import BackgroundModelError

Provider = Literal["cpu", "cuda"]

# Models that are free for commercial use and run locally, with the md5 of their ONNX file. rembg's default (bria-rmbg)
# is not free for commercial use, and some of its sessions send the image to a service.
MODELS = {
    "u2net": "60024c5c889badc19c04ad937298a77b",
    "u2netp": "8e83ca70e441ab06c318d82300c84806",
    "birefnet-general": "7a35a0141cbbc80de11d9c9a28f52697",
    "birefnet-general-lite": "4fab47adc4ff364be1713e97b7e66334",
}
_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def _import_rembg() -> Any:
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

    Raises BackgroundModelError if the model is not in MODELS.
    """
    if model not in MODELS:
        raise BackgroundModelError(f"unknown background model {model!r}; known are {', '.join(MODELS)}")
    _import_rembg()
    from rembg.sessions import sessions

    session_class = sessions[model]
    existing = session_class.resolve_existing(f"{model}.onnx")
    return Path(existing or Path(session_class.model_dir()) / f"{model}.onnx")


def check_model_file(model: str, path: Path) -> None:
    """Raise BackgroundModelError unless the file exists and is the published one."""
    command = f"sn17-miner weights download {model}"
    if not path.is_file():
        raise BackgroundModelError(f"the background model {model} is missing at {path}: run `{command}`")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != MODELS[model]:
        raise BackgroundModelError(f"{path} has md5 {digest}, not {MODELS[model]}: delete it and run `{command}`")


class BackgroundRemover:
    """A background-removal model on an execution provider."""

    def __init__(self, model: str, provider: Provider = "cpu") -> None:
        """Load the model; raise BackgroundModelError if it, its runtime or the provider is not available."""
        path = model_path(model)
        check_model_file(model, path)
        rembg = _import_rembg()
        self._rembg = rembg
        self.model = model
        requested = _EXECUTION_PROVIDERS[provider]
        providers = list(dict.fromkeys([requested, "CPUExecutionProvider"]))
        with warnings.catch_warnings():
            # onnxruntime and rembg warn about a missing provider, which is an error below.
            warnings.simplefilter("ignore")
            self._session = rembg.new_session(model, providers=providers)
        self.provider: str = self._session.inner_session.get_providers()[0]
        if self.provider != requested:
            raise BackgroundModelError(
                f"background.provider is {provider}, but onnxruntime runs {model} on {self.provider}: install the "
                "extra [gpu] without the package onnxruntime, or set background.provider: cpu"
            )

    def __call__(self, image: Image.Image) -> Image.Image:
        """Turn an RGB image into an RGBA image of the same size with a transparent background."""
        return cast(Image.Image, self._rembg.remove(image, session=self._session))
