"""Several background-removal models on one picture, of whose mattes a measured rule takes the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pipeline.conditioning.background import BackgroundRemover, Provider
from pipeline.conditioning.matte_choice import Flaw, choose_matte, expect_iou, find_flaw
from pipeline.conditioning.matte_measures import MatteMeasures, measure_mattes
from pipeline.errors import FullForeground
from pipeline.params import CutOutParams


@dataclass(frozen=True, eq=False)
class Matting:
    """What one model made of a picture.

    cutout: RGBA, of the picture's size; its alpha channel is the matte.
    """

    model: str
    cutout: Image.Image
    measures: MatteMeasures

    @property
    def flaw(self) -> Flaw:
        """What keeps the matte from being a cut-out, "" if nothing does."""
        return find_flaw(self.measures)

    @property
    def expected_iou(self) -> float:
        """The IoU with the true mask that the rule expects."""
        return expect_iou(self.measures)


@dataclass(frozen=True)
class MattingRecord:
    """What is told of a matting: all of it but the picture."""

    model: str
    expected_iou: float
    flaw: Flaw
    measures: MatteMeasures


@dataclass(frozen=True)
class CutOutRecord:
    """What is told of a cut-out: the model whose matte was taken, and what all models made of the picture."""

    model: str
    mattings: tuple[MattingRecord, ...]


@dataclass(frozen=True, eq=False)
class CutOut:
    """A picture's object, and where the matte comes from.

    image: RGBA. mattings: what the models made of the picture, none if it has an alpha channel that cuts out an object.
    model: the one whose matte was taken; "" if the picture's own alpha channel was, or the whole picture.
    """

    image: Image.Image
    mattings: tuple[Matting, ...] = ()
    model: str = ""

    @property
    def expected_iou(self) -> float:
        """The expected IoU of the matte that was taken: 1 for the picture's own, 0 for the whole picture."""
        if not self.mattings:
            return 1.0
        return next((matting.expected_iou for matting in self.mattings if matting.model == self.model), 0.0)

    def record(self) -> CutOutRecord:
        """Return what is told of it."""
        mattings = (MattingRecord(m.model, m.expected_iou, m.flaw, m.measures) for m in self.mattings)
        return CutOutRecord(self.model, tuple(mattings))


class MattingModels:
    """Background-removal models in the order of a phase, each in a session of its own."""

    def __init__(self, models: Sequence[str], provider: Provider = "cpu") -> None:
        """Load the models, at least one; raise BackgroundModelError as BackgroundRemover does."""
        self.removers = {model: BackgroundRemover(model, provider) for model in models}

    def __call__(self, picture: Image.Image, params: CutOutParams) -> CutOut:
        """Cut the object out of an RGB picture with the models that `params` name, which must be loaded.

        Raises FullForeground where all of the picture would be left.
        Where nothing would be left, the empty cut-out is returned, of which framing says what is missing.
        """
        mattings = self._run(picture, params)
        index = choose_matte([matting.measures for matting in mattings])
        if index is not None:
            chosen = mattings[index]
            return CutOut(chosen.cutout, mattings, chosen.model)
        if params.unusable == "whole":
            return CutOut(picture.convert("RGBA"), mattings)
        full = [matting for matting in mattings if matting.flaw == "full"]
        # A faint object is no empty one if it is to be scaled up.
        other = next((matting for matting in mattings if matting.flaw == "empty"), None)
        if other is not None and (params.faint == "scale" or not full):
            return CutOut(other.cutout, mattings, other.model)
        measures = full[0].measures
        raise FullForeground(
            f"the image shows no object before a ground: {' and '.join(matting.model for matting in full)} keep "
            f"{measures.area:.0%} of it and {measures.border:.0%} of its border; background.unusable: whole in the "
            "phase makes an object of the whole picture",
            mattings,
        )

    def _run(self, picture: Image.Image, params: CutOutParams) -> tuple[Matting, ...]:
        """Return what the models make of a picture: all of them or, for "first", those up to the first usable one."""
        names = params.models or tuple(self.removers)
        if params.choose == "rule":
            cutouts = [self.removers[name](picture) for name in names]
            measures = measure_mattes([cutout.getchannel("A") for cutout in cutouts])
            return tuple(map(Matting, names, cutouts, measures))
        mattings: list[Matting] = []
        for name in names:
            cutout = self.removers[name](picture)
            mattings.append(Matting(name, cutout, *measure_mattes([cutout.getchannel("A")])))
            if not mattings[-1].flaw:
                break
        return tuple(mattings)
