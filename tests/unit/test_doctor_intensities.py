"""Intensities: broken values, constant images, drift, outliers; and the picture."""

import numpy as np
import pytest

from nnunet_ssl.doctor.checks import drift, intensities
from nnunet_ssl.doctor.facts import QUANTILE_LEVELS
from nnunet_ssl.doctor.picture import densities, draw_intensities
from tests.unit.doctor_facts import SHAPE, TWO_TASKS, case, channel, fold, said, study

CT = {"channel_names": {"0": "CT"}}


def noise(seed: int, change=lambda v: v):
    return channel(volume=change(np.random.default_rng(seed).gamma(2.0, 50.0, SHAPE)))


def cases(folder: str, count: int, change=lambda v: v, first: int = 0, prefix: str = "") -> list:
    start = {"imagesTr": 0, "imagesUn": 1000, "imagesTs": 2000}[folder]
    return [
        case(f"{prefix}{folder[-1]}{i}", folder, channels=[noise(start + i, change)])
        for i in range(first, first + count)
    ]


def test_good_scans_are_fine():
    one = study([*cases("imagesTr", 10), *cases("imagesUn", 10)])
    assert intensities.check_values(one) == []
    assert drift.check_drift(one) == []
    assert intensities.check_outliers(one) == []


def test_nan_and_constant():
    flat = channel(volume=np.full(SHAPE, 3.0))
    one = study(
        [
            case("nan", channels=[channel(nonfinite=7)]),
            case("flat", channels=[flat]),
            case("half", channels=[channel(), flat]),
            case("flat", "imagesTs", channels=[flat]),
        ]
    )
    findings = intensities.check_values(one)
    assert said(findings) == [
        ("error", "nan", ("nan",)),
        ("error", "constant", ("flat",)),
        ("warning", "constant", ("imagesTs/flat",)),
        ("warning", "constant", ("half",)),
    ]
    assert findings[0].details == ("case_0000.nii.gz: 7 voxels",)


def test_drift_by_hand():
    # Uniform quantiles from 0 to 1 against the same plus 3 of their standard deviations
    base = channel().__class__(**(vars(channel()) | {"quantiles": QUANTILE_LEVELS.astype(np.float32)}))
    moved = base.__class__(**(vars(base) | {"quantiles": base.quantiles + 3 * QUANTILE_LEVELS.std()}))
    one = study(
        [
            *(case(f"a{i}", channels=[base]) for i in range(6)),
            *(case(f"u{i}", "imagesUn", channels=[moved]) for i in range(6)),
        ],
        dataset_json=CT,
        normalization=["CTNormalization"],
    )
    (group,) = drift.groups(one, one.folds[0])
    measured = drift.measure(group, one)
    assert measured is not None
    np.testing.assert_allclose(measured.distance, 3, rtol=1e-5)
    # 2 of the 924 ways to choose 6 of 12 are as far apart
    assert measured.p_value <= 0.01


@pytest.mark.parametrize(
    ("change", "normalization", "found"),
    [
        (lambda v: 5 * v + 300, "ZScoreNormalization", False),  # normalised away
        (lambda v: v + 1024, "CTNormalization", True),  # HU that were not shifted back
        (lambda v: v**2, "ZScoreNormalization", True),
        (lambda v: -v, "ZScoreNormalization", True),
    ],
)
def test_drift_as_the_network_sees_it(change, normalization, found):
    one = study([*cases("imagesTr", 10), *cases("imagesUn", 10, change)], normalization=[normalization])
    expected = [("warning", "drift", ())] if found else []
    assert said(drift.check_drift(one)) == expected


def test_drift_between_labelled_and_hidden_cases_names_the_fold():
    both = [*cases("imagesTr", 8), *cases("imagesTr", 8, np.square, first=8)]
    names = [c.case for c in both]
    split = [fold("0", names[::2], [], names[1::2]), fold("1", names[:8], [], names[8:])]
    (finding,) = drift.check_drift(study(both, split))
    assert "in fold 1:" in finding.found


def test_few_cases_are_not_judged():
    assert drift.check_drift(study([*cases("imagesTr", 10), *cases("imagesUn", 4, np.square)])) == []


def test_drift_of_each_task():
    heart = cases("imagesTr", 8, prefix="Heart_") + cases("imagesUn", 8, prefix="Heart_")
    belly = cases("imagesTr", 8, np.square, prefix="Belly_") + cases("imagesUn", 8, np.square, 50, "Belly_")
    assert drift.check_drift(study([*heart, *belly], dataset_json=TWO_TASKS)) == []
    wrong = cases("imagesTr", 8, prefix="Heart_") + cases("imagesUn", 8, np.square, prefix="Heart_")
    (finding,) = drift.check_drift(study([*wrong, *belly], dataset_json=TWO_TASKS))
    assert "of task 'Heart'" in finding.found


def test_one_scan_in_other_units():
    odd = case("odd", "imagesUn", channels=[noise(5, lambda v: v + 1024)])
    both = [*cases("imagesTr", 10), *cases("imagesUn", 10), odd]
    assert said(intensities.check_outliers(study(both, normalization=["CTNormalization"]))) == [
        ("warning", "intensity", ("imagesUn/odd",))
    ]
    assert intensities.check_outliers(study(both, normalization=["ZScoreNormalization"])) == []


def test_a_labelled_outlier_is_a_note():
    odd = case("odd", channels=[noise(5, lambda v: v**4)])
    assert said(intensities.check_outliers(study([*cases("imagesTr", 10), odd]))) == [
        ("note", "intensity", ("odd",))
    ]


def test_densities_hold_all_voxels():
    quantiles = np.stack(
        [np.quantile(np.random.default_rng(i).normal(size=4000), QUANTILE_LEVELS) for i in range(3)]
    )
    shares = densities(quantiles, np.linspace(-5, 5, 101))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    peak = np.linspace(-4.95, 4.95, 100)[shares.mean(0).argmax()]
    assert abs(peak) < 0.5


def test_picture(tmp_path):
    file = tmp_path / "sub" / "picture.png"
    one = study([*cases("imagesTr", 6), *cases("imagesUn", 6, np.square), *cases("imagesTs", 1)])
    assert draw_intensities(one, file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert not draw_intensities(
        study([case("a", channels=[channel(volume=np.zeros(SHAPE))])]), tmp_path / "none.png"
    )
    assert not (tmp_path / "none.png").exists()
