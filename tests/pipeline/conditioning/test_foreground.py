import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.conditioning.foreground import Pieces, decontaminate, keep_pieces


def three_pieces() -> Image.Image:
    """Pieces of 400, 100 and 25 pixels, the first with a soft edge."""
    image = Image.new("RGBA", (100, 50), (9, 8, 7, 0))
    image.paste((9, 8, 7, 20), (8, 8, 32, 32))
    for box in ((10, 10, 30, 30), (50, 10, 60, 20), (80, 30, 85, 35)):
        image.paste((9, 8, 7, 255), box)
    return image


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [("all", 525), ("largest", 400), (0.1, 500), (0.01, 525), (0.9, 400)],
)
def test_pieces_are_kept_by_their_share(pieces: Pieces, kept: int) -> None:
    image = three_pieces()
    alpha = np.asarray(keep_pieces(image, pieces).getchannel("A"))
    assert np.count_nonzero(alpha == 255) == kept
    # The soft edge stays with its piece.
    assert np.count_nonzero(alpha == 20) == 24 * 24 - 400
    assert np.count_nonzero(np.asarray(image.getchannel("A")) == 255) == 525


def test_one_piece_or_none_is_left_alone() -> None:
    nothing = Image.new("RGBA", (20, 20))
    assert keep_pieces(nothing, "largest") is nothing


def test_the_ground_s_colour_is_taken_out_of_soft_edges() -> None:
    disc = Image.new("L", (160, 160))
    disc.paste(255, (50, 50, 110, 110))
    matte = disc.filter(ImageFilter.GaussianBlur(4))
    alpha = np.asarray(matte)[..., None] / 255
    red, green = np.array([200, 30, 20]), np.array([20, 220, 40])
    picture = Image.fromarray((alpha * red + (1 - alpha) * green).round().astype(np.uint8))
    cleaned = decontaminate(picture, matte)
    edge = (alpha[..., 0] > 0.2) & (alpha[..., 0] < 0.8)
    before = np.abs(np.asarray(picture, dtype=float)[edge] - red).mean()
    after = np.abs(np.asarray(cleaned, dtype=float)[edge, :3] - red).mean()
    assert before > 60
    assert after < before / 5
    assert np.array_equal(cleaned.getchannel("A"), matte)
