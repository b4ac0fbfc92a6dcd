"""Distance transforms: closed forms, the traps on the way there and back, SciPy, and real labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_ssl.distance import (
    distance_logits,
    distance_to,
    distance_to_seg,
    exact,
    known_distance,
    off_centre_sum,
    seg_to_distance,
    soft_distance_transform,
)
from tests.real_data import RAW, needs_data
from tests.unit.toy import generator

FORMS = pytest.mark.parametrize("form", ["exact", "convolution"])
DIMS = pytest.mark.parametrize("dim", [2, 3])


def grid(shape):
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"))


def ellipsoid(shape, centre, axes):
    """(1, 1, *shape) 1 inside."""
    view = (-1, *[1] * len(shape))
    offset = (grid(shape) - torch.tensor(centre).view(view)) / torch.tensor(axes).view(view)
    return (offset.square().sum(0) <= 1).float()[None, None]


def ball(dim, edge=24, radius=7.0, centre=None):
    return ellipsoid([edge] * dim, [edge / 2.0] * dim if centre is None else centre, [radius] * dim)


def seed(shape, *where):
    mask = torch.zeros(1, 1, *shape)
    mask[(0, 0, *where)] = 1
    return mask


def half_space(dim, edge=9, depth=3):
    mask = torch.zeros(1, 1, *[edge] * dim)
    mask[:, :, :depth] = 1
    return mask


def dice(a, b):
    a, b = a.double(), b.double()
    return float((2 * (a * b).sum() + 1e-9) / (a.sum() + b.sum() + 1e-9))


# The convolutional transform: closed forms (kernel 3, h 0.35 unless said)


def test_one_seed_reaches_face_edge_and_corner_exactly():
    got = soft_distance_transform(seed((5, 5, 5), 2, 2, 2))[0, 0]
    assert got[2, 2, 2] == 0
    neighbours = torch.stack([got[2, 2, 3], got[2, 1, 3], got[3, 1, 3]])
    assert torch.allclose(neighbours, torch.tensor([1.0, 2.0, 3.0]).sqrt(), atol=1e-5)


def test_farther_from_a_seed_the_front_moves_one_voxel_a_round():
    got = soft_distance_transform(seed((7, 7, 7), 2, 2, 2))[0, 0]
    assert got[4, 2, 2] == pytest.approx(1.6499, abs=1e-4)  # truly 2
    assert got[4, 4, 4] == pytest.approx(1 + math.sqrt(3), abs=1e-4)  # truly 3.464


@pytest.mark.parametrize(("dim", "first"), [(2, 0.8328), (3, 0.6499)])
def test_a_plane_is_too_near_by_a_constant(dim, first):
    layers = soft_distance_transform(half_space(dim))[0, 0].flatten(1)[3:]
    expected = torch.arange(6.0)[:, None] + first
    assert torch.allclose(layers, expected.expand_as(layers), atol=1e-4)


def test_the_first_layer_in_closed_form():
    h = 0.35
    expected = 1 - h * math.log(
        1 + 4 * math.exp(-(math.sqrt(2) - 1) / h) + 4 * math.exp(-(math.sqrt(3) - 1) / h)
    )
    assert soft_distance_transform(half_space(3))[0, 0, 3, 4, 4] == pytest.approx(expected, abs=1e-5)


def test_kernel_five_takes_two_layers_a_round():
    got = soft_distance_transform(half_space(3), kernel_size=5)[0, 0, 3:6, 4, 4]
    assert torch.allclose(got, torch.tensor([0.5858, 1.4339, 2.5858]), atol=1e-4)


def test_a_hole_of_one_voxel_vanishes_where_h_is_too_large():
    hole = 1 - seed((5, 5, 5), 2, 2, 2)
    assert soft_distance_transform(hole, h=0.4070)[0, 0, 2, 2, 2] > 0
    assert soft_distance_transform(hole, h=0.4072)[0, 0, 2, 2, 2] == 0
    assert off_centre_sum(3, 0.4070, 3) < 1 < off_centre_sum(3, 0.4072, 3)


def test_a_border_goes_on_as_it_is():
    """Zeros behind the border would make the plane farther at the rim of the patch."""
    layer = soft_distance_transform(half_space(3))[0, 0, 3]
    assert torch.allclose(layer, layer[4, 4].expand_as(layer), atol=1e-5)


def test_it_stops_when_nothing_is_left_to_reach(monkeypatch):
    from nnunet_ssl.distance import convolutional

    rounds = []
    real = convolutional.filter_channels
    monkeypatch.setattr(convolutional, "filter_channels", lambda *a: rounds.append(1) or real(*a))
    soft_distance_transform(half_space(2, edge=30, depth=27))
    assert len(rounds) == 4  # three layers, and one look that finds none
    rounds.clear()
    soft_distance_transform(torch.zeros(1, 1, 30, 30))
    assert len(rounds) == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_front_or_without_room_it_is_zero(value):
    mask = torch.full((2, 3, 6, 6), value, requires_grad=True)
    out = soft_distance_transform(mask)
    assert not out.any()
    (gradient,) = torch.autograd.grad(out.sum(), mask)
    assert torch.isfinite(gradient).all()


@DIMS
def test_gradient_of_the_convolutional_transform(dim):
    """With every voxel a weak seed the first round reaches all: a smooth function."""
    mask = (0.1 + 0.3 * torch.rand(1, 2, *[4] * dim, generator=generator(), dtype=torch.float64)) / 2
    assert (soft_distance_transform(mask) > 0).all()
    assert torch.autograd.gradcheck(soft_distance_transform, mask.requires_grad_())


def test_gradient_of_a_front_at_its_seeds():
    """Seeds of value s near 1: -h log(K * s), differentiated by hand at the face of a lone seed: -h / s."""
    mask = seed((5, 5, 5), 2, 2, 2).double() * 0.9
    mask.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_distance_transform(mask)[0, 0, 2, 2, 3], mask)
    assert gradient[0, 0, 2, 2, 2] == pytest.approx(-0.35 / 0.9)
    assert torch.isfinite(gradient).all()


def test_the_front_of_soft_values_is_everywhere_at_once():
    """The trap: unthresholded probabilities end the transform in its first round and the map is flat."""
    soft = 0.02 + 0.96 * ball(2)
    assert soft_distance_transform(soft).max() < 2
    assert soft_distance_transform((soft > 0.5).float()).max() > 5


# The exact transform


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((17,), (1.0,)), ((13, 21), (1.0, 1.0)), ((9, 14, 11), (1.0, 1.0, 1.0)), ((9, 14, 11), (3.3, 0.7, 1.2))],
)
@pytest.mark.parametrize("share", [0.004, 0.1, 0.7])
def test_exact_equals_scipy(shape, spacing, share):
    seeds = torch.rand(5, *shape, generator=generator(1)) < share
    seeds[:, 0] = True
    expected = [ndimage.distance_transform_edt(~s.numpy(), sampling=spacing) for s in seeds]
    got = distance_to(seeds, spacing)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.stack(expected), rtol=1e-5)


def test_rows_in_chunks_and_rows_without_seeds(monkeypatch):
    seeds = torch.rand(7, 6, 8, generator=generator()) < 0.1
    seeds[3] = False
    whole = distance_to(seeds)
    assert torch.isinf(whole[3]).all()
    assert torch.isfinite(whole[[0, 1, 2, 4, 5, 6]]).all()
    monkeypatch.setattr(exact, "CHUNK_CPU", 100)
    assert torch.equal(distance_to(seeds), whole)
    assert torch.equal(distance_to(seeds[4:5]), whole[4:5])
    assert distance_to(seeds[:0]).shape == (0, 6, 8)


@pytest.mark.parametrize("limit", [1.0, 2.5, 7.0])
def test_a_limit_cuts_what_is_farther(limit):
    seeds = torch.rand(3, 15, 16, 12, generator=generator()) < 0.002
    seeds[:, 0, 0, 0] = True
    assert torch.allclose(distance_to(seeds, limit=limit), distance_to(seeds).clamp(max=limit))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0)])
def test_spacing_that_does_not_fit(spacing):
    with pytest.raises(ValueError, match="Expected 2 positive spacings"):
        distance_to(torch.ones(1, 4, 4, dtype=torch.bool), spacing)


# T_r2s


def test_regression_to_segmentation_by_hand():
    distance = torch.tensor([-0.01, 0.0, 0.01])
    assert torch.allclose(distance_to_seg(distance), torch.tensor([0.1192, 0.5, 0.8808]), atol=1e-4)
    assert torch.allclose(distance_logits(distance, 30.0), torch.tensor([-0.3, 0.0, 0.3]))


def test_gradient_of_regression_to_segmentation():
    distance = torch.linspace(-0.03, 0.03, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(distance_to_seg, distance)


@DIMS
def test_k_200_inverts_and_keeps_its_gradient_and_1500_kills_it(dim):
    mask = ball(dim, 48, 15.0)
    signed = seg_to_distance(mask)
    probability = distance_to_seg(signed)
    assert dice(probability, mask) >= 0.994
    first_layer = mask.bool() & (signed < 1.1 / 15)
    assert first_layer.any()
    for k, alive in ((200.0, True), (1500.0, False)):
        distance = signed.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distance_to_seg(distance, k).sum(), distance)
        assert bool((gradient[first_layer] > 0).all()) == alive
        assert bool((gradient[first_layer] > 0).any()) == alive


def test_cross_entropy_of_k_r_stays_finite_where_the_probability_saturates():
    distance = torch.tensor([-1.0], requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(distance_logits(distance), torch.ones(1))
    assert loss.item() == pytest.approx(200)
    assert torch.autograd.grad(loss, distance)[0].item() == pytest.approx(-200)


# T_s2r


@FORMS
@DIMS
def test_signed_map(form, dim):
    mask = ball(dim)
    signed = seg_to_distance(mask, form=form)
    assert signed.max() == 1 and signed.min() == -1
    assert torch.equal(signed > 0, mask.bool())  # positive inside
    assert (signed != 0).all()
    assert signed[0, 0][(12,) * dim] == 1  # the centre is deepest
    assert dice(signed > 0, mask) == 1


def test_signed_map_by_hand():
    mask = torch.tensor([[0.0, 1, 1, 1, 0, 0, 0]]).expand(5, -1)[None, None]
    expected = torch.tensor([-1 / 3, 1 / 2, 1, 1 / 2, -1 / 3, -2 / 3, -1])
    assert torch.allclose(seg_to_distance(mask), expected.expand(1, 1, 5, 7))


def test_spacing_stretches_distances():
    mask = seed((5, 9), 2, 4)
    signed = seg_to_distance(mask, spacing=(4.0, 1.0))[0, 0]
    assert signed[2, 8] / signed[0, 4] == pytest.approx(4 / 8)
    assert torch.allclose(signed, seg_to_distance(mask, spacing=(8.0, 2.0))[0, 0])  # a ratio has no unit
    with pytest.raises(ValueError, match="counts voxels"):
        seg_to_distance(mask, spacing=(4.0, 1.0), form="convolution")
    assert torch.equal(
        seg_to_distance(mask, spacing=(2.0, 2.0), form="convolution"),
        seg_to_distance(mask, form="convolution"),
    )


@FORMS
@DIMS
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_batch_equals_one_by_one(form, dim, scale):
    maps = torch.cat([ball(dim), ball(dim, radius=2.0), torch.zeros_like(ball(dim)), 1 - ball(dim)])
    batch = maps.view(2, 2, *maps.shape[2:])
    got = seg_to_distance(batch, scale, form=form)
    for b in range(2):
        for c in range(2):
            one = seg_to_distance(batch[b : b + 1, c : c + 1], scale, form=form)
            assert torch.allclose(got[b, c], one[0, 0], atol=1e-6)


@FORMS
@DIMS
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("value", "expected"), [(0.0, -1.0), (0.4, -1.0), (1.0, 1.0), (0.6, 1.0)])
def test_empty_and_full_patches(form, dim, scale, value, expected):
    prob = torch.full((2, 1, *[6] * dim), value, requires_grad=True)
    signed = seg_to_distance(prob, scale, form=form)
    assert torch.equal(signed, torch.full_like(signed, expected))
    (gradient,) = torch.autograd.grad(signed.sum(), prob)
    assert torch.isfinite(gradient).all()
    if form == "exact":  # more probability means more foreground: out of an empty map there is a way
        assert (gradient > 0).all()


@FORMS
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 3), (1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_tiny_patches(form, shape, scale):
    prob = torch.full((2, 2, *shape), 0.3)
    prob[0, 0].view(-1)[-1] = 0.7
    prob.requires_grad_()
    signed = seg_to_distance(prob, scale, form=form)
    assert signed.shape == prob.shape and signed.abs().max() <= 1
    assert torch.isfinite(torch.autograd.grad(signed.square().sum(), prob)[0]).all()


@FORMS
def test_soft_probabilities_are_thresholded(form):
    mask = ball(2)
    assert torch.equal(seg_to_distance(0.02 + 0.96 * mask, form=form), seg_to_distance(mask, form=form))


@FORMS
def test_a_band(form):
    mask = ball(2, 32, 9.0)
    near, whole = seg_to_distance(mask, form=form, band=4.0), seg_to_distance(mask, form=form)
    assert torch.equal(near > 0, whole > 0)
    distance = distance_to(mask[0].bool())[0]
    if form == "exact":
        assert torch.allclose(near[0, 0][mask[0, 0] == 0], -(distance.clamp(max=4) / 4)[mask[0, 0] == 0])
    assert (near == -1).sum() > (whole == -1).sum()


def test_small_targets_do_not_die_at_half_resolution():
    lesion = ellipsoid((32, 32, 32), (15.0, 15.0, 15.0), (3.0, 3.0, 2.0))
    low = torch.nn.functional.interpolate(lesion, scale_factor=0.5, mode="area")
    naive = torch.nn.functional.interpolate(seg_to_distance(low), size=(32, 32, 32), mode="trilinear")
    assert dice(naive > 0, lesion) < 0.8
    assert dice(seg_to_distance(lesion, 0.5) > 0, lesion) == 1
    large = ball(3, 32, 11.0)
    assert 0.95 < dice(seg_to_distance(large, 0.5) > 0, large) < 1  # transformed at half the resolution
    both = seg_to_distance(torch.cat([lesion, large], 1), 0.5)
    assert torch.equal(both[:, :1], seg_to_distance(lesion, 0.5))
    assert torch.allclose(both[:, 1:], seg_to_distance(large, 0.5), atol=1e-6)


# Gradients of T_s2r


def test_gradient_of_the_exact_form_by_hand():
    """dR(v) / dp(u) = K(u - v) / max S, whichever side v is on."""
    mask = (
        torch.tensor([[0.0, 0, 1, 1, 1, 0, 0, 0]]).expand(7, -1)[None, None].clone().double().requires_grad_()
    )
    signed = seg_to_distance(mask)
    kernel = {0: 1.0, 1: math.exp(-1 / 0.35), 2: math.exp(-math.sqrt(2) / 0.35)}
    for x, largest in ((3, 2.0), (5, 3.0)):  # inside, outside
        (gradient,) = torch.autograd.grad(signed[0, 0, 3, x], mask, retain_graph=True)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                expected = kernel[abs(dy) + abs(dx)] / largest
                assert gradient[0, 0, 3 + dy, x + dx] == pytest.approx(expected)
        assert gradient.count_nonzero() == 9


def test_gradient_of_the_exact_form_is_linear_and_local():
    prob = torch.rand(2, 2, 9, 9, generator=generator(), dtype=torch.float64, requires_grad=True)
    signed = seg_to_distance(prob)
    a, b = torch.randn_like(signed), torch.randn_like(signed)

    def pull(weights):
        return torch.autograd.grad((signed * weights).sum(), prob, retain_graph=True)[0]

    assert torch.allclose(pull(a + 2 * b), pull(a) + 2 * pull(b))
    a[:, 1] = 0
    assert not pull(a)[:, 1].any()


@FORMS
def test_the_farthest_voxel_does_not_draw_the_gradient(form):
    """Were the maximum differentiated, a corner would outweigh the whole border."""
    mask, target = ball(2, 32, 6.0), ball(2, 32, 9.0)
    prob = mask.clone().requires_grad_()
    loss = (seg_to_distance(prob, form=form) - seg_to_distance(target, form=form)).square().mean()
    (gradient,) = torch.autograd.grad(loss, prob)
    corner = gradient[0, 0, 0, 0].abs()
    assert corner < 2 * gradient.abs().median() + 1e-6
    ring = (target - mask).bool()
    assert (gradient[ring] < 0).all()  # descent raises the probability where foreground is missing


# At half the resolution the logits of a block get one gradient: where they differ, some stay wrong
@pytest.mark.parametrize(
    ("dim", "start", "scale", "least"),
    [(2, start, 1.0, 0.9) for start in ("empty", "small", "large", "shifted", "noise")]
    + [(2, "shifted", 0.5, 0.8), (3, "shifted", 1.0, 0.9)],
)
def test_descent_on_the_distance_alone_recovers_a_shape(dim, start, scale, least):
    edge = 32 if dim == 2 else 20
    goal = ball(dim, edge, 0.28 * edge)
    first = {
        "empty": torch.zeros_like(goal),
        "small": ball(dim, edge, 0.12 * edge),
        "large": ball(dim, edge, 0.42 * edge),
        "shifted": ball(dim, edge, 0.25 * edge, [0.38 * edge] * dim),
        "noise": (torch.rand(goal.shape, generator=generator()) < 0.5).float(),
    }[start]
    logits = (4 * first - 2 + 0.1 * torch.randn(goal.shape, generator=generator(1))).requires_grad_()
    target = seg_to_distance(goal, scale)
    optimizer, steps = torch.optim.Adam([logits], 0.1), 150
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    assert dice(logits.detach() > 0, goal) < 0.9
    for _ in range(steps):
        optimizer.zero_grad()
        (seg_to_distance(torch.sigmoid(logits), scale) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    assert dice(logits.detach() > 0, goal) > least


# Precision, layout, ignored voxels


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(form, dtype):
    mask = ball(3, 16, 5.0)
    exact_map = seg_to_distance(mask, form=form)
    prob = mask.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        signed = seg_to_distance(prob, form=form)
        back = distance_to_seg(signed.to(dtype))
        signed.square().sum().backward()
    assert signed.dtype == back.dtype == torch.float32
    assert torch.equal(signed, exact_map)
    full = mask.clone().requires_grad_()
    seg_to_distance(full, form=form).square().sum().backward()
    assert torch.allclose(prob.grad.float(), full.grad, rtol=0.02, atol=1e-3)


def test_any_layout_and_the_input_is_left_alone():
    prob = torch.rand(2, 9, 8, 3, generator=generator()).permute(0, 3, 1, 2)
    before = prob.clone()
    assert torch.equal(seg_to_distance(prob), seg_to_distance(prob.contiguous()))
    assert torch.equal(soft_distance_transform(prob), soft_distance_transform(prob.contiguous()))
    assert torch.equal(prob, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@FORMS
def test_a_gpu_gives_the_same(form):
    prob = torch.rand(2, 2, 12, 14, 10, generator=generator())
    assert torch.allclose(
        seg_to_distance(prob.cuda(), form=form).cpu(), seg_to_distance(prob, form=form), atol=1e-5
    )


@DIMS
def test_known_distances_do_not_depend_on_what_is_ignored(dim):
    mask = ball(dim, 24, 6.0)
    ignored = torch.zeros(1, *mask.shape[2:], dtype=torch.bool)
    ignored[..., 15:] = True
    inside = mask.bool() & ~ignored[:, None]
    known = known_distance(inside, ignored)
    assert 0.2 < known.float().mean() < 0.7
    assert not known[0, 0][ignored[0]].any()
    for seed_value in range(5):
        hidden = torch.rand(mask.shape, generator=generator(seed_value)) < 0.3
        guess = inside | (hidden & ignored[:, None])
        for flipped in (guess, ~guess):
            original = inside if flipped is guess else ~inside & ~(ignored[:, None] & ~hidden)
            a, b = distance_to(flipped.flatten(0, 1)), distance_to(original.flatten(0, 1))
            where = known.flatten(0, 1) & ~flipped.flatten(0, 1)
            assert torch.equal(a[where], b[where])


def test_without_an_ignored_voxel_every_distance_is_known():
    inside = torch.cat([ball(2).bool(), torch.zeros(1, 1, 24, 24, dtype=torch.bool)])
    assert known_distance(inside, torch.zeros(2, 24, 24, dtype=torch.bool)).all()


def test_without_a_border_nothing_beside_ignored_voxels_is_known():
    ignored = torch.zeros(1, 8, 8, dtype=torch.bool)
    ignored[0, 0, 0] = True
    assert not known_distance(torch.zeros(1, 1, 8, 8, dtype=torch.bool), ignored).any()


# Real labels (Table 7)


def labels(dataset, count):
    for file in sorted((RAW / dataset / "labelsTr").iterdir())[:count]:
        image = sitk.ReadImage(str(file))
        yield torch.from_numpy(sitk.GetArrayFromImage(image)), image.GetSpacing()[::-1]


@needs_data(RAW / "Dataset501_LeftAtriumMR", RAW / "Dataset504_HeadNeckCT")
@pytest.mark.parametrize(("dataset", "count"), [("Dataset501_LeftAtriumMR", 4), ("Dataset504_HeadNeckCT", 4)])
def test_real_labels_survive_and_equal_scipy(dataset, count):
    for array, spacing in labels(dataset, count):
        values = [v for v in array.unique().tolist() if v]
        masks = torch.stack([array == v for v in values])[None].float()
        signed = seg_to_distance(masks, spacing=spacing)
        half = seg_to_distance(masks, 0.5, spacing=spacing)
        for c in range(len(values)):
            mask = masks[0, c].numpy() > 0
            inner, outer = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (mask, ~mask))
            expected = inner / inner.max() - outer / outer.max()
            np.testing.assert_allclose(signed[0, c].numpy(), expected, atol=1e-5)
            assert dice(signed[0, c] > 0, masks[0, c]) >= 0.999
            assert dice(distance_to_seg(signed[0, c]), masks[0, c]) >= 0.9
            assert dice(half[0, c] > 0, masks[0, c]) >= 0.9
