import math
from dataclasses import replace

import pytest
import torch

from pipeline.splats.splats import Splats, flip_up_axis, normalise
from pipeline.splats.statistics import compute_statistics
from pipeline.splats.validation import invalid_reason


def cloud(n: int, degree_coefficients: int | None = None, seed: int = 0) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) - 0.5

    return Splats(
        means=uniform(3),
        quaternions=uniform(4),
        log_scales=uniform(3) - 5,
        opacity_logits=uniform(),
        f_dc=uniform(3),
        f_rest=None if degree_coefficients is None else uniform(3, degree_coefficients),
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("means", torch.zeros(5, 2), r"means: expected shape \[N, 3\], got \[5, 2\]"),
        ("quaternions", torch.zeros(4, 4), r"quaternions: expected shape \[5, 4\], got \[4, 4\]"),
        ("log_scales", torch.zeros(5, 3, 1), r"log_scales: expected shape \[5, 3\]"),
        ("opacity_logits", torch.zeros(5, 1), r"opacity_logits: expected shape \[5\], got \[5, 1\]"),
        ("f_dc", torch.zeros(5, 3, dtype=torch.float64), "f_dc: expected float32, got torch.float64"),
        ("f_rest", torch.zeros(5, 3, 4), "f_rest: expected 0, 3, 8 or 15 coefficients per channel, got 4"),
        ("f_rest", torch.zeros(5, 9), r"f_rest: expected shape \[5, 3, N\]"),
        ("f_dc", torch.zeros(5, 3, device="meta"), "f_dc: expected device cpu as means, got meta"),
        ("f_dc", [[0.0] * 3] * 5, "f_dc: expected a torch tensor, got list"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(cloud(5), **{field: value})


@pytest.mark.parametrize(("coefficients", "degree"), [(None, 0), (0, 0), (3, 1), (8, 2), (15, 3)])
def test_length_degree_and_device(coefficients: int | None, degree: int) -> None:
    splats = cloud(7, coefficients)
    assert (len(splats), splats.sh_degree, splats.device.type) == (7, degree, "cpu")
    moved = splats.to("meta")
    assert moved.device.type == "meta"
    assert len(moved) == 7
    assert moved.sh_degree == degree


def test_every_non_finite_gaussian_is_dropped_and_the_others_keep_their_order() -> None:
    splats = cloud(8, 3)
    splats.means[0, 1] = math.nan
    splats.quaternions[1, 3] = math.inf
    splats.log_scales[2, 0] = -math.inf
    splats.opacity_logits[4] = math.inf
    splats.f_dc[5, 2] = math.nan
    assert splats.f_rest is not None
    splats.f_rest[6, 2, 1] = math.nan
    kept, dropped = splats.drop_non_finite()
    assert dropped == 6
    assert torch.equal(kept.means, splats.means[[3, 7]])
    assert torch.equal(kept.opacity_logits, splats.opacity_logits[[3, 7]])
    assert kept.f_rest is not None
    assert torch.equal(kept.f_rest, splats.f_rest[[3, 7]])
    assert kept.drop_non_finite() == (kept, 0)
    assert cloud(0, 0).drop_non_finite()[1] == 0


def test_statistics_of_a_known_cloud() -> None:
    splats = Splats(
        # Two in the voxel at the origin's upper side, one alone, one outside of the grid.
        means=torch.tensor([[0.001, 0.001, 0.001], [0.014, 0.002, 0.003], [-0.25, 0.4, 0.1], [0.7, -0.1, 0.1]]),
        quaternions=torch.ones(4, 4),
        log_scales=torch.log(torch.arange(1, 13, dtype=torch.float32).reshape(4, 3)),
        opacity_logits=torch.tensor([-math.inf, -8.0, 0.0, math.inf]),
        f_dc=torch.zeros(4, 3),
    )
    found = compute_statistics(splats)
    assert found.count == 4
    assert (found.opacity_min, found.opacity_max) == (0.0, 1.0)
    assert found.opacity_mean == pytest.approx((0 + 1 / (1 + math.exp(8)) + 0.5 + 1) / 4)
    assert found.transparent_share == 0.5
    assert found.box_min == pytest.approx((-0.25, -0.1, 0.001))
    assert found.box_max == pytest.approx((0.7, 0.4, 0.1))
    assert found.volume == pytest.approx(0.95 * 0.5 * 0.099, rel=1e-5)
    assert (found.density_max, found.density_mean) == (2, 1.5)
    # Ranks round(share * 11) of the scales 1 to 12.
    assert (found.scale_p5, found.scale_p50, found.scale_p95) == pytest.approx((2.0, 7.0, 11.0))


def test_statistics_leave_non_finite_values_out() -> None:
    splats = cloud(3)
    splats.means[0, 0] = math.nan
    splats.log_scales[1] = math.inf
    splats.opacity_logits[2] = math.nan
    found = compute_statistics(splats)
    assert found.count == 3
    assert found.box_min == pytest.approx(tuple(splats.means[1:].amin(0).tolist()))
    assert found.opacity_max == pytest.approx(float(splats.opacity_logits[:2].sigmoid().amax()))
    assert math.isfinite(found.scale_p95)


def test_statistics_of_absurd_values() -> None:
    splats = replace(cloud(4), means=torch.full((4, 3), 3e38), log_scales=torch.full((4, 3), 1e30))
    splats.means[0] = -3e38
    found = compute_statistics(splats)
    assert found.volume == pytest.approx(6e38**3)
    assert (found.density_max, found.scale_p50) == (0, math.inf)


def test_statistics_of_nothing() -> None:
    found = compute_statistics(cloud(0))
    assert (found.count, found.density_max, found.density_mean) == (0, 0, 0.0)
    figures = (found.opacity_min, found.opacity_mean, found.transparent_share, found.volume, found.scale_p50)
    assert all(math.isnan(figure) for figure in figures)


def test_validity_asks_for_7000_gaussians() -> None:
    assert invalid_reason(cloud(7000)) is None
    assert "6999 gaussians" in (invalid_reason(cloud(6999)) or "")


@pytest.mark.parametrize(("transparent", "accepted"), [(8000, True), (8001, False)])
def test_validity_allows_80_percent_nearly_transparent(transparent: int, accepted: bool) -> None:
    splats = cloud(10_000)
    splats.opacity_logits[:transparent] = math.log(0.000999 / (1 - 0.000999))
    splats.opacity_logits[transparent:] = math.log(0.001001 / (1 - 0.001001))
    reason = invalid_reason(splats)
    assert reason is None if accepted else "80.01 %" in (reason or "")


@pytest.mark.parametrize(
    ("rotation", "accepted"),
    [
        ([1.0, 0.0, 0.0, 0.0], False),
        ([3.0, 0.0, 0.0, 0.0], False),
        ([1.0, 0.9e-8, 0.0, 0.0], False),
        ([1.0, 1.1e-8, 0.0, 0.0], True),
        ([-1.0, 0.0, 0.0, 0.0], True),
        ([0.0, 0.0, 0.0, 0.0], True),
    ],
)
def test_validity_refuses_identity_rotations_within_1e_8(rotation: list[float], accepted: bool) -> None:
    splats = replace(cloud(7000), quaternions=torch.tensor(rotation).expand(7000, 4))
    assert (invalid_reason(splats) is None) is accepted


def test_one_other_rotation_is_enough() -> None:
    splats = replace(cloud(7000), quaternions=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(7000, 1))
    splats.quaternions[6999, 1] = 0.1
    assert invalid_reason(splats) is None


@pytest.mark.parametrize(
    ("index", "point", "accepted"),
    [
        (0, [1.0, 1.0, 1.0], False),
        (2, [1.0 + 0.9e-5, 1.0, 1.0 - 0.9e-5], False),
        (2, [1.0 + 1.2e-5, 1.0, 1.0], True),
        (1, [1.0, 1.0, 0.5], True),
        (3, [1.0, 1.0, 1.0], True),
    ],
)
def test_validity_refuses_ones_among_the_first_three_points(index: int, point: list[float], accepted: bool) -> None:
    splats = cloud(7000)
    splats.means[index] = torch.tensor(point)
    reason = invalid_reason(splats)
    assert (reason is None) if accepted else f"point {index} " in (reason or "")


def test_normalise_centres_each_axis_and_scales_the_longest() -> None:
    splats = cloud(100)
    splats.means.mul_(torch.tensor([1.0, 4.0, 2.0])).add_(torch.tensor([5.0, -3.0, 0.5]))
    before = splats.means.amax(0) - splats.means.amin(0)
    result = normalise(splats, 1.5)
    low, high = result.means.amin(0), result.means.amax(0)
    factor = 1.5 / float(before.amax())
    torch.testing.assert_close(low, -high, rtol=0, atol=1e-6)
    torch.testing.assert_close(high - low, before * factor)
    assert float((high - low).amax()) == pytest.approx(1.5)
    torch.testing.assert_close(result.log_scales.exp(), splats.log_scales.exp() * factor)
    assert torch.equal(result.quaternions, splats.quaternions)
    assert torch.equal(result.opacity_logits, splats.opacity_logits)


def test_normalise_refuses_what_it_cannot_scale() -> None:
    for extent in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="extent: expected a positive number"):
            normalise(cloud(3), extent)
    with pytest.raises(ValueError, match="sn17-miner splats convert IN OUT --drop-invalid"):
        normalise(cloud(0), 1.0)
    with pytest.raises(ValueError, match="sn17-miner splats convert IN OUT --drop-invalid"):
        normalise(replace(cloud(2), means=torch.full((2, 3), math.nan)), 1.0)
    with pytest.raises(ValueError, match="more than one distinct position"):
        normalise(replace(cloud(2), means=torch.ones(2, 3)), 1.0)


def axes(quaternions: torch.Tensor) -> torch.Tensor:
    """[N, 3, 3]: columns are where a gaussian's own axes point."""
    w, x, y, z = torch.nn.functional.normalize(quaternions.double(), dim=1).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def test_the_other_up_axis_turns_places_and_gaussians_by_half_a_turn_about_x() -> None:
    splats = cloud(50)
    turned = flip_up_axis(splats)
    half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    assert torch.equal(turned.means.double(), splats.means.double() @ half_turn)
    assert torch.allclose(axes(turned.quaternions), half_turn @ axes(splats.quaternions), atol=1e-6)
    assert torch.equal(turned.log_scales, splats.log_scales)
    assert torch.allclose(flip_up_axis(turned).means, splats.means)


@pytest.mark.parametrize("coefficients", [3, 8, 15])
def test_the_other_up_axis_turns_harmonics_as_well(coefficients: int) -> None:
    splats = cloud(5, coefficients)
    assert splats.f_rest is not None
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    turned = flip_up_axis(splats).f_rest
    seen = splats.f_rest @ harmonics(directions)[:coefficients]
    assert torch.allclose(
        turned @ harmonics(directions * torch.tensor([1.0, -1.0, -1.0]))[:coefficients], seen, atol=1e-5
    )
    assert not torch.allclose(turned, splats.f_rest)


def harmonics(directions: torch.Tensor) -> torch.Tensor:
    """The basis of degrees 1 to 3 without its constants, in the order of f_rest: [15, directions]."""
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            y, z, x, x * y, y * z, 2 * zz - xx - yy, x * z, xx - yy, y * (3 * xx - yy), x * y * z,
            y * (4 * zz - xx - yy), z * (2 * zz - 3 * xx - 3 * yy), x * (4 * zz - xx - yy), z * (xx - yy),
            x * (xx - 3 * yy),
        ]
    )  # fmt: skip
