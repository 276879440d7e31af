"""Background removal with rembg, by a model that is chosen by name and verified by its checksum."""

import logging
import warnings
from typing import Literal, cast

from PIL import Image

from pipeline.errors import BackgroundModelError
from pipeline.weights.background_models import check_model_file, import_rembg

log = logging.getLogger(__name__)

Provider = Literal["auto", "cpu", "cuda"]

_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class BackgroundRemover:
    """A background-removal model on an execution provider."""

    def __init__(self, model: str, provider: Provider = "cpu") -> None:
        """Load the model; raise BackgroundModelError if it, its runtime or the provider is not available.

        "auto" is the GPU if onnxruntime can use it, else the CPU.
        """
        check_model_file(model)
        self._rembg = import_rembg()
        self.model = model
        requested = _EXECUTION_PROVIDERS["cpu" if provider == "cpu" else "cuda"]
        providers = list(dict.fromkeys([requested, "CPUExecutionProvider"]))
        # Only now, since import_rembg tells what to install if it is missing.
        from onnxruntime import SessionOptions

        options = SessionOptions()
        # Its arena would keep what the largest pass took, half a gigabyte for u2netp, for as long as the model is
        # loaded, and more with each model that is swapped in.
        options.enable_cpu_mem_arena = False
        with warnings.catch_warnings():
            # onnxruntime and rembg warn about a missing provider, which is an error below.
            warnings.simplefilter("ignore")
            self._session = self._rembg.new_session(model, sess_opts=options, providers=providers)
        self.provider: str = self._session.inner_session.get_providers()[0]
        log.info("Backgrounds are removed by %s on %s", model, self.provider)
        if self.provider != requested and provider != "auto":
            raise BackgroundModelError(
                f"background.provider is {provider}, but onnxruntime runs {model} on {self.provider}: install the "
                "extra [gpu] without the package onnxruntime, or set background.provider: cpu"
            )

    def __call__(self, image: Image.Image) -> Image.Image:
        """Turn an RGB image into an RGBA image of the same size with a transparent background."""
        return cast(Image.Image, self._rembg.remove(image, session=self._session))
