"""Background removal with rembg: one session, made at start-up, of a model that is named and checked."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from pipeline.errors import BackgroundModelError

Provider = Literal["cpu", "cuda"]

# Models free for commercial use that run on this machine, with the md5 of their ONNX file. rembg's default
# (bria-rmbg) is not free for commercial use, and some of its sessions send the picture to a service.
MODELS = {
    "u2net": "60024c5c889badc19c04ad937298a77b",
    "u2netp": "8e83ca70e441ab06c318d82300c84806",
    "birefnet-general": "7a35a0141cbbc80de11d9c9a28f52697",
    "birefnet-general-lite": "4fab47adc4ff364be1713e97b7e66334",
}
_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def _import_rembg() -> Any:
    # rembg imports pymatting, which compiles for over a minute on first import; a plain mask never calls it.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    try:
        import onnxruntime  # noqa: F401 - rembg exits the process if this is missing
        import rembg
    except ImportError as error:
        raise BackgroundModelError(
            f"background removal needs rembg and onnxruntime ({error}): install this package with the extra "
            "[cpu] or [gpu]"
        ) from None
    return rembg


def model_path(model: str) -> Path:
    """Where rembg keeps or would keep the model's file: under U2NET_HOME or REMBG_HOME if set, else ~/.rembg.

    Raises BackgroundModelError on a model that is not in MODELS.
    """
    if model not in MODELS:
        raise BackgroundModelError(f"unknown background model {model!r}; known are {', '.join(MODELS)}")
    _import_rembg()
    from rembg.sessions import sessions

    session_class = sessions[model]
    existing = session_class.resolve_existing(f"{model}.onnx")
    return Path(existing or Path(session_class.model_dir()) / f"{model}.onnx")


def check_model_file(model: str, path: Path) -> None:
    """Raises BackgroundModelError unless the file is there and is the one published."""
    fetch = f"python scripts/fetch_background_model.py {model}"
    if not path.is_file():
        raise BackgroundModelError(f"the background model {model} is missing at {path}: run {fetch}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != MODELS[model]:
        raise BackgroundModelError(f"{path} has md5 {digest}, not {MODELS[model]}: delete it and run {fetch}")


class BackgroundRemover:
    """Removes backgrounds with one model on one provider."""

    def __init__(self, model: str, provider: Provider = "cpu") -> None:
        """Raises BackgroundModelError if the model, its runtime or the provider is not to be had."""
        path = model_path(model)
        check_model_file(model, path)
        rembg = _import_rembg()
        self._rembg = rembg
        self.model = model
        wanted = _EXECUTION_PROVIDERS[provider]
        providers = list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
        with warnings.catch_warnings():
            # onnxruntime and rembg warn where we refuse below.
            warnings.simplefilter("ignore")
            self._session = rembg.new_session(model, providers=providers)
        self.provider: str = self._session.inner_session.get_providers()[0]
        if self.provider != wanted:
            raise BackgroundModelError(
                f"background.provider is {provider}, but onnxruntime runs {model} on {self.provider}: install the "
                "extra [gpu] without onnxruntime beside it, or set background.provider: cpu"
            )

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB picture -> RGBA picture of the same size, what is not the object made transparent."""
        return cast(Image.Image, self._rembg.remove(image, session=self._session))
