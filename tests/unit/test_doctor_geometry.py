"""Grids: channels, labels, dimension, and scans that lie otherwise than the labelled ones."""

import numpy as np
import pytest

from nnunet_ssl.doctor.checks import geometry, outliers
from nnunet_ssl.doctor.checks.reference import modified_z
from nnunet_ssl.doctor.study import Study
from tests.unit.doctor_facts import TWO_TASKS, case, channel, grid, said, study

TWO_CHANNELS = {"channel_names": {"0": "T1", "1": "T2"}}


def test_same_grid_is_fine():
    one = study([case("a", channels=[channel(), channel(1)])], dataset_json=TWO_CHANNELS)
    for check in (
        geometry.check_channel_count,
        geometry.check_channels,
        geometry.check_labels,
        geometry.check_dimension,
    ):
        assert check(one) == []


def test_too_few_and_too_many_channels():
    cases = [case("a"), case("b", channels=[channel(), channel(1)]), case("t", "imagesTs")]
    assert said(geometry.check_channel_count(study(cases, dataset_json=TWO_CHANNELS))) == [
        ("error", "channels", ("a",)),
        ("warning", "channels", ("imagesTs/t",)),  # no training fails over a test scan
    ]


def test_an_unreadable_channel_is_not_counted_as_missing():
    broken = case("a", unreadable=(("a_0001.nii.gz", "cut off"),))
    assert geometry.check_channel_count(study([broken], dataset_json=TWO_CHANNELS)) == []


@pytest.mark.parametrize(
    ("other", "severity", "detail"),
    [
        (grid(shape=(9, 12, 12)), "error", "shape 9x12x12, not 8x12x12"),
        (grid(spacing=(2.0, 1.0, 1.01)), "error", "spacing 2x1x1.01 mm, not 2x1x1 mm"),
        (grid(flips=(-1, 1, 1)), "warning", "direction LAS, not RAS"),
        (grid(shift=7.5), "warning", "up to 7.5 mm away"),
    ],
)
def test_label_elsewhere(other, severity, detail):
    findings = geometry.check_labels(study([case("a", label_geometry=other), case("b")]))
    assert said(findings) == [(severity, "label-geometry", ("a",))]
    assert findings[0].details == (detail,)


@pytest.mark.parametrize("other", [grid(shift=0.05), grid(spacing=(2.0, 1.0, 1.0005))])
def test_rounding_of_the_header_is_no_finding(other):
    assert geometry.check_labels(study([case("a", label_geometry=other)])) == []


def test_channels_apart():
    cases = [
        case("a", channels=[channel(), channel(1, grid(shape=(8, 12, 13)), file="a_0001.nii.gz")]),
        case("b", channels=[channel(), channel(1, grid(shift=30), file="b_0001.nii.gz")]),
        # nnU-Net's reader refuses what differs by more than 1e-5
        case("c", channels=[channel(), channel(1, grid(spacing=(2.0, 1.0, 1.0005)), file="c_0001.nii.gz")]),
    ]
    findings = geometry.check_channels(study(cases, dataset_json=TWO_CHANNELS))
    assert said(findings) == [
        ("error", "channel-geometry", ("a", "c")),
        ("warning", "channel-geometry", ("b",)),
    ]
    assert findings[0].details[0] == "a_0001.nii.gz: shape 8x12x13, not 8x12x12"


def test_a_flat_image_among_volumes():
    flat = case("u", "imagesUn", geometry=grid(shape=(1, 12, 12)))
    assert said(geometry.check_dimension(study([case("a"), case("b"), flat]))) == [
        ("error", "dimension", ("imagesUn/u",))
    ]


def reference(**changes) -> list:
    rng = np.random.default_rng(0)
    return [
        case(f"c{i}", geometry=grid(spacing=(2.0 * s, 1.0, 1.0)), **changes)
        for i, s in enumerate(1 + 0.05 * rng.standard_normal(12))
    ]


def test_modified_z_by_hand():
    # median 3, deviations 2 1 0 1 2, MAD 1
    values = modified_z(np.array([3.0, 5.0, 13.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    np.testing.assert_allclose(values, [0, 1.349, 6.745])


@pytest.mark.parametrize(
    ("spacing", "found"), [((2.0, 1.0, 1.0), False), ((2.5, 1.0, 1.0), False), ((5.0, 1.0, 1.0), True)]
)
def test_spacing_outlier(spacing, found):
    cases = [*reference(), case("u", "imagesUn", geometry=grid(spacing=spacing))]
    expected = [("warning", "spacing", ("imagesUn/u",))] if found else []
    assert said(outliers.check_spacing(study(cases))) == expected


def test_a_labelled_odd_one_out_is_a_note():
    cases = [*reference(), case("odd", geometry=grid(spacing=(9.0, 1.0, 1.0)))]
    assert said(outliers.check_spacing(study(cases))) == [("note", "spacing", ("odd",))]


def test_field_of_view():
    cases = [*reference(), case("u", "imagesUn", geometry=grid(shape=(80, 12, 12)))]
    assert said(outliers.check_extent(study(cases))) == [("warning", "field-of-view", ("imagesUn/u",))]
    assert outliers.check_extent(study([*reference(), case("u", "imagesUn")])) == []


def test_orientation():
    cases = [*reference(), case("u", "imagesUn", geometry=grid(flips=(-1, -1, 1))), case("v", "imagesUn")]
    findings = outliers.check_orientation(study(cases))
    assert said(findings) == [("warning", "orientation", ("imagesUn/u",))]
    assert findings[0].details == ("LPS, usual is RAS",)


def two_tasks() -> list:
    heart = [case(f"Heart_{i}", values=(0, 1), geometry=grid(spacing=(2, 1, 1))) for i in range(6)]
    belly = [case(f"Belly_{i}", values=(0, 2, 3), geometry=grid(spacing=(8, 1, 1))) for i in range(6)]
    return heart + belly


@pytest.mark.parametrize(
    ("name", "spacing", "found"),
    [
        ("Heart_u", 8.0, True),  # usual in the other task only
        ("Belly_u", 8.0, False),
        ("u", 8.0, False),  # of unknown task: like one of them
        ("u", 20.0, True),  # like none of them
    ],
)
def test_each_task_has_its_own_reference(name, spacing, found):
    cases = [*two_tasks(), case(name, "imagesUn", geometry=grid(spacing=(spacing, 1, 1)))]
    findings = outliers.check_spacing(study(cases, dataset_json=TWO_TASKS))
    assert bool(findings) is found


def test_few_labelled_cases_are_no_reference():
    few: Study = study([*reference()[:4], case("u", "imagesUn", geometry=grid(spacing=(50.0, 1, 1)))])
    assert outliers.check_spacing(few) == []
