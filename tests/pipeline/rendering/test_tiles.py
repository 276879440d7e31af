import numpy as np
import pytest
import torch

from pipeline import tile


def test_pictures_stand_in_rows_and_what_is_left_over_is_white() -> None:
    pictures = torch.arange(5 * 2 * 3 * 3, dtype=torch.uint8).reshape(5, 2, 3, 3)
    sheet = np.asarray(tile(pictures, columns=2))
    assert sheet.shape == (3 * 2, 2 * 3, 3)
    for index, picture in enumerate(pictures.numpy()):
        top, left = index // 2 * 2, index % 2 * 3
        assert (sheet[top : top + 2, left : left + 3] == picture).all()
    assert (sheet[4:, 3:] == 255).all()
    with pytest.raises(ValueError, match="no picture"):
        tile(pictures[:0], columns=2)
