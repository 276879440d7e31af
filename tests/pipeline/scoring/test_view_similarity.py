"""ssim and lpips, against what the validator's own code made of the same views, and the files that are refused."""

import hashlib
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.scoring.view_similarity import ViewSimilarity, combine_pairs
from pipeline.weights import alexnet as alexnet_weights
from tests.support.formula_weights import formula_weights, golden_shapes
from tests.support.score_views import OBJECTS, golden_scores, golden_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.safetensors"
    save_file(formula_weights(golden_shapes("lpips")), file)
    return file


@pytest.fixture(scope="module")
def similarity(alexnet: Path) -> ViewSimilarity:
    return ViewSimilarity.load(alexnet, CPU)


def small_views(number: int) -> Tensor:
    """Views of 32 pixels that are not too different: the same noise with some more of it."""
    generator = torch.Generator().manual_seed(5)
    same = torch.randint(50, 200, (32, 32, 3), generator=generator)
    return (same + torch.randint(-50, 50, (number, 32, 32, 3), generator=generator)).to(torch.uint8)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_golden_views(similarity: ViewSimilarity, name: str) -> None:
    golden = golden_scores(name)
    similarities = similarity.pair_similarities(golden_views(name))
    distances = similarity.pair_distances(golden_views(name))
    assert similarities.tolist() == pytest.approx(golden["ssim"]["per_pair"], abs=5e-6, rel=0)
    assert distances.tolist() == pytest.approx(golden["lpips"]["per_pair"], abs=1e-6, rel=0)
    # The first and the last view are from the same camera.
    assert float(distances[15]) == 0
    ssim, perceptual = combine_pairs(similarities, distances)
    assert ssim == pytest.approx(golden["ssim"]["final"], abs=5e-6, rel=0)
    assert perceptual == pytest.approx(golden["lpips"]["final"], abs=1e-6, rel=0)


def test_each_view_is_paired_with_the_next_and_the_last_with_the_first(similarity: ViewSimilarity) -> None:
    """However many views go through the networks together."""
    views = small_views(6)
    views[4] = views[3]
    pairs = [torch.stack([views[i], views[(i + 1) % 6]]) for i in range(6)]
    similarities, distances = similarity.pair_similarities(views), similarity.pair_distances(views)
    for i, pair in enumerate(pairs):
        assert torch.allclose(similarities[i], similarity.pair_similarities(pair), atol=1e-6)
        assert torch.allclose(distances[i], similarity.pair_distances(pair), atol=1e-6)
    assert [i for i, distance in enumerate(distances) if distance == 0] == [3]
    assert similarity.measure(views) == combine_pairs(similarities, distances)


def test_quirks_of_the_combination() -> None:
    spread = torch.linspace(0.1, 0.9, 16)
    assert math.isnan(combine_pairs(spread - 0.5, spread)[0])
    # A distance of 0 that is no outlier lifts lpips to 1, whatever the others are.
    assert combine_pairs(spread, torch.cat([torch.zeros(6), spread[6:]]))[1] == 1
    with pytest.raises(ValueError, match="at least 6 values, not among 5"):
        combine_pairs(spread[:5], spread[:5])


def published(alexnet: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pickle as torchvision publishes it, with the classifier; its checksum is taken for the published one."""
    file = directory / "alexnet-owt-7be5be79.pth"
    torch.save({**load_file(alexnet), "classifier.6.bias": torch.zeros(1000)}, file)
    monkeypatch.setattr(alexnet_weights, "ALEXNET_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def test_the_published_pickle(
    similarity: ViewSimilarity, alexnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published(alexnet, tmp_path, monkeypatch)
    views = small_views(6)
    assert ViewSimilarity.load(file, CPU).measure(views) == similarity.measure(views)


def test_another_pickle_is_refused_unread(alexnet: Path, tmp_path: Path) -> None:
    file = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(load_file(alexnet), file)
    with pytest.raises(CheckpointError, match=r"\.pth is not the file that is published as https://\S+, its sha256 is"):
        ViewSimilarity.load(file, CPU)


class Payload:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("payload"),)  # type: ignore[return-value]


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": Payload()}, file)
    monkeypatch.setattr(alexnet_weights, "ALEXNET_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match=r"not a file of tensors \(UnpicklingError\): download it again"):
        ViewSimilarity.load(file, CPU)
    assert not (tmp_path / "payload").exists()


def changed(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(lambda t: t.pop("features.10.bias")), r"features\.10\.bias is missing or not of shape \[256\]"),
        (
            changed(lambda t: t.update({"features.3.weight": torch.zeros(192, 64, 3, 3)})),
            r"features\.3\.weight is missing or not of shape \[192, 64, 5, 5\]",
        ),
        (lambda file: file.write_bytes(b"none"), "damaged or not a safetensors file"),
        (lambda file: file.unlink(), r"alexnet\.safetensors is missing; it is published as https://\S+7be5be79\.pth"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    alexnet: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    file = Path(shutil.copy(alexnet, tmp_path))
    spoil(file)
    with pytest.raises(CheckpointError, match=message):
        ViewSimilarity.load(file, CPU)


def test_a_missing_package_is_named_with_its_cure(alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(CheckpointError, match=r"need the package torchmetrics .*: pip install 'sn17-miner\[score\]'"):
        ViewSimilarity.load(alexnet, CPU)
