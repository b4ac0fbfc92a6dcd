"""The ramp exp(-5 (1 - t/T)^2)."""

import math

import pytest

from nnunet_ssl.ramps import gaussian_ramp


@pytest.mark.parametrize(
    ("progress", "length", "weight"),
    [
        (0.0, 1.0, 0.006737947),
        (0.5, 1.0, 0.286504797),
        (1.0, 1.0, 1.0),
        (0.2, 0.4, 0.286504797),
        (0.39999, 0.4, 1.0),
    ],
)
def test_hand_computed(progress, length, weight):
    assert gaussian_ramp(progress, length) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("progress", [0.4, 0.7, 1.0, 1.3])
def test_one_from_the_end_on(progress):
    assert gaussian_ramp(progress, 0.4) == 1.0


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_no_length_is_no_ramp(progress):
    assert gaussian_ramp(progress, 0.0) == 1.0


def test_rises_and_never_starts_below_the_first_value():
    weights = [gaussian_ramp(t / 100, 0.8) for t in range(101)]
    assert weights == sorted(weights)
    assert gaussian_ramp(-0.1, 0.8) == weights[0] == math.exp(-5)
