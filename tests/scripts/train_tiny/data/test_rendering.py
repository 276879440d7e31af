"""Pictures, voxels and what is in them: that they show the same object, upright."""

import pytest
import torch

from pipeline import Splats, flip_up_axis
from pipeline.rendering.rules import SH_C0
from pipeline.scoring.similarity import compare_views, render_rgba
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import make_object
from scripts.train_tiny.data.primitives import BOX, CONE, Primitive
from scripts.train_tiny.data.rendering import render, render_framed
from scripts.train_tiny.data.voxels import surface_latents, to_voxel_axes, voxel_centres, voxelize
from scripts.train_tiny.eval.metrics import render_object, retrieval_accuracy, tolerant_iou, view_cameras

CPU = torch.device("cpu")
# Wide at the bottom, a pointed hat of another colour on top.
GNOME = [
    Primitive(BOX, (0, -0.15, 0), (0.2, 0.15, 0.2), (0.8, 0.1, 0.1)),
    Primitive(CONE, (0, 0.15, 0), (0.12, 0.15, 0.01), (0.1, 0.1, 0.8)),
]


def as_exported(objects: ObjectBatch) -> Splats:
    """A ball for each occupied voxel, in the colour of its latents, as the gaussian decoder would export it."""
    occupied = voxelize(objects)
    (values,) = surface_latents(objects, occupied)
    x, y, z = ((occupied[0].nonzero().float() + 0.5) / 64 - 0.5).unbind(1)
    count = len(values)
    return Splats(
        means=torch.stack([x, -z, y], dim=1),
        quaternions=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        log_scales=torch.full((count, 3), 0.4 / 64).log(),
        opacity_logits=torch.full((count,), 6.0),
        f_dc=values[:, :3] / 2 / SH_C0,
    )


def test_voxels_and_pictures_show_the_same_object_upright() -> None:
    objects = ObjectBatch.pack([GNOME], CPU)
    found = compare_views(render_rgba(flip_up_axis(as_exported(objects)), view_cameras()), render_object(objects))
    assert min(found.silhouettes) > 0.85
    assert found.colour_error < 0.06
    on_its_head = compare_views(render_rgba(as_exported(objects), view_cameras()), render_object(objects))
    assert max(on_its_head.silhouettes) < 0.7


def test_axes() -> None:
    positions = torch.tensor([[10, 20, 63], [0, 32, 5]])
    scene = voxel_centres(positions)
    assert scene[0, 1] == pytest.approx((63 + 0.5) / 64 - 0.5)
    torch.testing.assert_close((to_voxel_axes(scene) + 0.5) * 64 - 0.5, positions.float())


def test_latents_of_a_surface() -> None:
    """Normals have length 1, and along them the surface is where the distance says."""
    objects = ObjectBatch.pack([GNOME], CPU)
    occupied = voxelize(objects)
    (values,) = surface_latents(objects, occupied)
    torch.testing.assert_close(values[:, 3:6].norm(dim=1), torch.ones(len(values)), atol=1e-3, rtol=0)
    away = voxel_centres(occupied[0].nonzero()) + to_scene_axes(values[:, 3:6]) * values[:, 6:7] / 64
    assert objects.distance(away[None])[0].abs().quantile(0.9) < 2e-3


def to_scene_axes(vectors: torch.Tensor) -> torch.Tensor:
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def test_framed() -> None:
    """The object in the middle, filling what the pipeline leaves it."""
    alpha = render_framed(ObjectBatch.pack([GNOME], CPU), 112)[0].amax(dim=0) > 0.05
    rows, columns = (alpha.any(dim=dimension).nonzero()[:, 0] for dimension in (1, 0))
    assert max(rows.max() - rows.min(), columns.max() - columns.min()) == pytest.approx(112 / 1.2, abs=4)
    assert float(rows.float().mean()) == pytest.approx(55.5, abs=2)


def test_measures() -> None:
    a, b = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    a[2, 2, 2] = a[5, 5, 5] = b[2, 2, 3] = True
    assert tolerant_iou(a, b) == pytest.approx(2 / 3)
    views = torch.cat([render(ObjectBatch.pack([make_object(seed).primitives], CPU), 32) for seed in range(5)])
    assert retrieval_accuracy(views, views) == 1.0
    assert retrieval_accuracy(views[[1, 2, 3, 4, 0]], views) == 0.0
