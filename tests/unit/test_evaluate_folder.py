"""``nnUNetv2_ssl evaluate`` on tiny folders: what is scored, what is left out, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ssl.commands import evaluate
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.evaluation.export import csv_rows, to_json
from nnunet_ssl.evaluation.folder import Evaluation, evaluate_folder
from nnunet_ssl.evaluation.summary import summarise
from nnunet_ssl.evaluation.table import show

Labels = NDArray[np.uint8]

ONE_TASK: dict[str, Any] = {
    "name": "Liver",
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "file_ending": ".nii.gz",
}
TWO_TASKS: dict[str, Any] = {
    "labels": {"background": 0, "left": 1, "right": 2, "prostate": 3},
    "file_ending": ".nii.gz",
    "nnunet_ssl": {
        "tasks": [
            {"name": "Hippocampus", "labels": ["left", "right"], "prefix": "HC_"},
            {"name": "Prostate", "labels": ["prostate"], "prefix": "PR_"},
        ]
    },
}


def blocks(*bounds: tuple[int, int, int], shape: tuple[int, ...] = (4, 6, 8)) -> Labels:
    """Label map with slabs along the last axis: (label, first, last + 1)."""
    array = np.zeros(shape, np.uint8)
    for label, start, stop in bounds:
        array[..., start:stop] = label
    return array


def write(
    file: Path,
    array: Labels,
    spacing: tuple[float, ...] | None = (1.0, 1.0, 1.0),
    origin: tuple[float, ...] | None = None,
) -> None:
    image = sitk.GetImageFromArray(array)
    if spacing is not None:
        image.SetSpacing(spacing)
    if origin is not None:
        image.SetOrigin(origin)
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(file))


def score(tmp_path: Path, dataset_json: Mapping[str, Any] = ONE_TASK, **options: Any) -> Evaluation:
    return evaluate_folder(tmp_path / "ref", tmp_path / "pred", dataset_json, **options)


def pair(tmp_path: Path, case: str, reference: Labels, prediction: Labels, **header: Any) -> None:
    write(tmp_path / "ref" / f"{case}.nii.gz", reference, **header)
    write(tmp_path / "pred" / f"{case}.nii.gz", prediction, **header)


def test_values_in_mm_and_in_voxels(tmp_path: Path) -> None:
    # two parallel slabs, one voxel shifted: the far sides differ, 2 mm along the last axis (SimpleITK's x)
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 1, 4)), spacing=(2.0, 1.0, 1.0))
    in_mm = score(tmp_path).cases[0].labels["liver"]
    assert in_mm.values["Dice"] == pytest.approx(2 / 3)
    assert in_mm.values["Jaccard"] == pytest.approx(2 / 4)
    assert in_mm.values["HD95"] == 2.0
    assert (in_mm.n_pred, in_mm.n_ref) == (72, 72)
    assert score(tmp_path, unit="voxel").cases[0].labels["liver"].values["HD95"] == 1.0


def test_empty_masks_are_counted_and_have_no_distance(tmp_path: Path) -> None:
    nothing, liver, both = blocks(), blocks((1, 0, 3)), blocks((1, 0, 3), (2, 5, 7))
    pair(tmp_path, "a", both, both)
    pair(tmp_path, "b", both, liver)  # tumour missed
    pair(tmp_path, "c", liver, both)  # tumour invented
    pair(tmp_path, "d", nothing, nothing)
    evaluation = score(tmp_path)
    liver_summary, tumour = summarise(evaluation).labels
    assert (liver_summary.n, liver_summary.both_empty, liver_summary.mean["Dice"]) == (4, 1, 1.0)
    assert (tumour.empty_prediction, tumour.empty_reference, tumour.both_empty) == (1, 1, 1)
    assert tumour.mean == {
        "Dice": pytest.approx(1 / 3),
        "Jaccard": pytest.approx(1 / 3),
        "HD95": 0.0,
        "ASD": 0.0,
    }
    assert to_json(evaluation)["cases"][1]["labels"]["tumour"] == {
        "Dice": 0.0,
        "Jaccard": 0.0,
        "HD95": None,
        "ASD": None,
        "n_pred": 0,
        "n_ref": 48,
    }


def test_a_label_without_any_defined_score_does_not_spoil_the_mean(tmp_path: Path) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))  # no tumour anywhere
    evaluation = score(tmp_path)
    assert np.isnan(summarise(evaluation).labels[1].mean["Dice"])
    assert summarise(evaluation).overall["Dice"] == 1.0
    json.dumps(to_json(evaluation), allow_nan=False)


def test_ignored_voxels_are_left_out(tmp_path: Path) -> None:
    dataset_json = {**ONE_TASK, "labels": {**ONE_TASK["labels"], "ignore": 3}}
    pair(tmp_path, "a", blocks((1, 0, 3), (3, 3, 8)), blocks((1, 0, 7)))
    assert score(tmp_path, dataset_json).cases[0].labels["liver"].values["Dice"] == 1.0
    # but a prediction may not say "ignore"
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((3, 0, 3)))
    with pytest.raises(DataError, match=r"pred/a\.nii\.gz: holds label\(s\) 3; dataset\.json knows 0, 1, 2"):
        score(tmp_path, dataset_json)


def test_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    pair(tmp_path, "a", blocks((1, 0, 2), (2, 2, 4)), blocks((1, 0, 3), (2, 3, 4)))
    found = score(tmp_path, {**ONE_TASK, "labels": labels, "regions_class_order": [1, 2]}).cases[0].labels
    assert found["whole"].values["Dice"] == 1.0
    assert found["core"].values["Dice"] == pytest.approx(2 / 3)


def test_a_case_is_scored_on_its_own_task_only(tmp_path: Path) -> None:
    # the prediction shows a prostate in the hippocampus scan: nobody annotated it, so nobody can judge it
    pair(tmp_path, "HC_1", blocks((1, 0, 2), (2, 2, 4)), blocks((1, 0, 2), (2, 2, 4), (3, 5, 7)))
    pair(tmp_path, "PR_1", blocks((3, 0, 2)), blocks((3, 0, 1)))
    evaluation = score(tmp_path, TWO_TASKS)
    assert [(c.case, c.task, list(c.labels)) for c in evaluation.cases] == [
        ("HC_1", "Hippocampus", ["left", "right"]),
        ("PR_1", "Prostate", ["prostate"]),
    ]
    summary = summarise(evaluation)
    assert [label.n for label in summary.labels] == [1, 1, 1]
    assert summary.tasks["Hippocampus"]["Dice"] == 1.0
    assert summary.tasks["Prostate"]["Dice"] == pytest.approx(2 / 3)
    assert summary.overall["Dice"] == pytest.approx((1 + 1 + 2 / 3) / 3)


def test_table_shows_labels_tasks_and_counts(tmp_path: Path) -> None:
    for case in ("HC_1", "HC_2"):
        pair(tmp_path, case, blocks((1, 0, 2), (2, 2, 4)), blocks((1, 0, 2)))
    pair(tmp_path, "PR_1", blocks((3, 0, 2)), blocks((3, 0, 2)))
    lines = show(score(tmp_path, TWO_TASKS)).splitlines()
    assert lines[0].split("  ")[0] == "task" and "95HD (mm)" in lines[0] and "empty pred." in lines[0]
    cells = [[c.strip() for c in line.split("  ") if c.strip()] for line in lines]
    assert [
        "Hippocampus",
        "left",
        "2",
        "1.0000 ± 0.0000",
        "1.0000 ± 0.0000",
        "0.00 ± 0.00",
        "0.00 ± 0.00",
    ] == cells[2][:7]
    assert [
        "Hippocampus",
        "right",
        "2",
        "0.0000 ± 0.0000",
        "0.0000 ± 0.0000",
        "-",
        "-",
        "2",
        "0",
        "0",
    ] == cells[3]
    assert cells[5][:4] == ["Hippocampus", "mean", "-", "0.5000"]  # that of a task of one label says nothing
    assert cells[6][:4] == ["all", "mean of labels", "-", "0.6667"]
    bounds = [line for line in cells if line[1:3] == ["mean", "[0.5000, 0.5000]"]]
    assert [line[0] for line in bounds] == ["Hippocampus"]  # one case of the other task does not vary


def test_a_task_without_cases_is_absent(tmp_path: Path) -> None:
    pair(tmp_path, "PR_1", blocks((3, 0, 2)), blocks((3, 0, 2)))
    evaluation = score(tmp_path, TWO_TASKS)
    assert [label.label for label in summarise(evaluation).labels] == ["prostate"]
    assert "Hippocampus" not in show(evaluation)


@pytest.mark.parametrize("ending", [".nrrd", ".png", ".nii.gz"])
def test_formats_and_two_dimensions(tmp_path: Path, ending: str) -> None:
    reference, prediction = blocks((1, 0, 4), shape=(9, 8)), blocks((1, 1, 5), shape=(9, 8))
    for folder, array in (("ref", reference), ("pred", prediction)):
        write(tmp_path / folder / f"a{ending}", array, spacing=None if ending == ".png" else (0.5, 1.0))
    evaluation = score(tmp_path, {**ONE_TASK, "file_ending": ending})
    assert evaluation.unit == ("voxel" if ending == ".png" else "mm")  # png knows no spacing
    values = evaluation.cases[0].labels["liver"].values
    step = 1.0 if ending == ".png" else 0.5
    # a 9 x 4 rectangle has 22 border pixels: the far side (9) is one step away, and so are the 7 pixels in
    # the middle of the near side, which lie within the other rectangle
    assert values["HD95"] == step
    assert values["ASD"] == pytest.approx(16 * step / 22)


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    for case in "cab":
        pair(tmp_path, case, blocks((1, 0, 3), (2, 5, 7)), blocks((1, 1, 4), (2, 5, 6)))
    alone, together = score(tmp_path), score(tmp_path, processes=2)
    assert alone.cases == together.cases
    assert [case.case for case in alone.cases] == ["a", "b", "c"]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    good = blocks((1, 0, 3))
    for case in ("shape", "spacing", "label", "missing", "broken"):
        write(tmp_path / "ref" / f"{case}.nii.gz", good)
    write(tmp_path / "pred" / "shape.nii.gz", blocks(shape=(4, 6, 9)))
    write(tmp_path / "pred" / "spacing.nii.gz", good, spacing=(1.0, 1.0, 2.0))
    write(tmp_path / "pred" / "label.nii.gz", blocks((7, 0, 3)))
    (tmp_path / "pred" / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        score(tmp_path)
    message = str(caught.value)
    for expected in (
        "missing.nii.gz: prediction missing",
        "shape.nii.gz: shape (4, 6, 9), the reference has (4, 6, 8)",
        "spacing.nii.gz: spacing (2, 1, 1), the reference has (1, 1, 1)",
        "label.nii.gz: holds label(s) 7; dataset.json knows 0, 1, 2",
        "broken.nii.gz: cannot be read",
    ):
        assert expected in message
    assert len(message.splitlines()) == 6


def test_rounded_headers_are_no_difference(tmp_path: Path) -> None:
    write(
        tmp_path / "ref" / "a.nii.gz",
        blocks((1, 0, 3)),
        spacing=(0.7, 0.7, 2.0),
        origin=(-123.4567, 1.0, 0.0),
    )
    write(
        tmp_path / "pred" / "a.nii.gz",
        blocks((1, 0, 3)),
        spacing=(0.70001, 0.7, 2.0),
        origin=(-123.457, 1.0, 0.0),
    )
    assert score(tmp_path).cases[0].labels["liver"].values["Dice"] == 1.0


def test_a_header_that_is_a_little_off_is_a_warning(tmp_path: Path) -> None:
    good = blocks((1, 0, 3))
    for case in "ab":
        write(tmp_path / "ref" / f"{case}.nii.gz", good, origin=(10.02, 20.0, 30.0))
        write(tmp_path / "pred" / f"{case}.nii.gz", good, origin=(10.0, 20.0, 30.0))
    write(tmp_path / "pred" / "b.nii.gz", blocks((7, 0, 3)), origin=(10.0, 20.0, 30.0))
    evaluation = score(tmp_path)
    assert evaluation.cases[0].labels["liver"].values["Dice"] == 1.0
    assert [problem.split(": ")[1] for problem in evaluation.problems] == [
        "holds label(s) 7; dataset.json knows 0, 1, 2"
    ]
    (warning,) = evaluation.warnings
    assert warning.startswith("1 prediction(s) are less than half a voxel beside their reference")
    assert "a.nii.gz: origin (10, 20, 30), the reference has (10.02, 20, 30)" in warning


def test_a_prediction_that_lies_elsewhere_is_not_scored(tmp_path: Path) -> None:
    good = blocks((1, 0, 3))
    pair(tmp_path, "right", good, good)
    for case in ("moved", "turned"):
        write(tmp_path / "ref" / f"{case}.nii.gz", good, origin=(10.0, 20.0, 30.0))
    write(tmp_path / "pred" / "moved.nii.gz", good, origin=(10.6, 20.0, 30.0))
    turned = sitk.GetImageFromArray(good.astype(np.uint8))
    turned.SetOrigin((10.0, 20.0, 30.0))
    turned.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(turned, str(tmp_path / "pred" / "turned.nii.gz"))
    evaluation = score(tmp_path)
    assert [case.case for case in evaluation.cases] == ["right"] and not evaluation.warnings
    moved, turned_by = (problem.split(".nii.gz: ")[1] for problem in evaluation.problems)
    assert moved == "origin (10.6, 20, 30), the reference has (10, 20, 30)"
    assert turned_by.startswith("direction (-1, 0, 0, 0, -1, 0, 0, 0, 1), the reference has (1, 0, 0")


def test_extra_and_misnamed_predictions(tmp_path: Path) -> None:
    good = blocks((1, 0, 3))
    pair(tmp_path, "case_001", good, good)
    write(tmp_path / "ref" / "case_002.nii.gz", good)
    write(tmp_path / "pred" / "case_0002.nii.gz", good)
    problem = "prediction missing (is case_0002.nii.gz misnamed?)"
    strict = score(tmp_path)
    assert [c.case for c in strict.cases] == ["case_001"]
    assert [p.split(": ")[1] for p in strict.problems] == [problem]
    evaluation = score(tmp_path, chill=True)
    assert len(evaluation.cases) == 1
    assert [w.split(": ")[1] for w in evaluation.warnings] == [
        "no reference of this name, not scored",
        "prediction missing (is case_0002.nii.gz misnamed?)",
    ]


def test_a_case_of_no_task_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "PR_1", blocks((3, 0, 2)), blocks((3, 0, 2)))
    pair(tmp_path, "XX_1", blocks((3, 0, 2)), blocks((3, 0, 2)))
    evaluation = score(tmp_path, TWO_TASKS)
    assert [c.case for c in evaluation.cases] == ["PR_1"]
    assert "Case 'XX_1' belongs to no task" in evaluation.problems[0]


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ref does not exist"):
        score(tmp_path)
    (tmp_path / "ref").mkdir()
    with pytest.raises(DataError, match=r"ref holds no file that ends with '\.nii\.gz'.*no files at all"):
        score(tmp_path)
    write(tmp_path / "ref" / "a.nrrd", blocks())
    with pytest.raises(DataError, match=r"found files that end with \.nrrd"):
        score(tmp_path)
    write(tmp_path / "ref" / "a.nii.gz", blocks())
    write(tmp_path / "pred" / "b.nii.gz", blocks())
    with pytest.raises(DataError, match=r"No case of .*ref is predicted"):
        score(tmp_path, chill=True)


def test_unreadable_reference(tmp_path: Path) -> None:
    write(tmp_path / "pred" / "a.nii.gz", blocks())
    (tmp_path / "ref").mkdir()
    (tmp_path / "ref" / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"ref/a\.nii\.gz: no reader of nnU-Net can open it"):
        score(tmp_path)


def test_an_unreadable_reference_does_not_hide_the_others(tmp_path: Path) -> None:
    pair(tmp_path, "b", blocks((1, 0, 3)), blocks((1, 0, 3)))
    write(tmp_path / "pred" / "a.nii.gz", blocks())
    (tmp_path / "ref" / "a.nii.gz").write_bytes(b"no image")
    evaluation = score(tmp_path)
    assert [c.case for c in evaluation.cases] == ["b"]
    assert "a.nii.gz: cannot be read" in evaluation.problems[0]


def test_both_units_at_once(tmp_path: Path) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 1, 4)), spacing=(2.0, 1.0, 1.0))
    evaluation = score(tmp_path, unit="both")
    values = evaluation.cases[0].labels["liver"].values
    assert (values["HD95"], values["HD95_voxel"]) == (2.0, 1.0)
    assert values["ASD"] == score(tmp_path).cases[0].labels["liver"].values["ASD"]
    assert values["ASD_voxel"] == score(tmp_path, unit="voxel").cases[0].labels["liver"].values["ASD"]
    assert {"95HD (mm)", "95HD (vox)", "ASD (vox)"} <= set(show(evaluation).replace("  ", "\n").split("\n"))


def test_label_maps_are_kept_small(tmp_path: Path) -> None:
    from nnunet_ssl.evaluation.reading import find_reader, read_labels

    write(tmp_path / "a.nii.gz", blocks((2, 0, 3)).astype(np.float32))
    reader = find_reader(ONE_TASK, [tmp_path / "a.nii.gz"])
    array, _ = read_labels(tmp_path / "a.nii.gz", reader, frozenset((0, 1, 2)), [])
    assert array is not None and array.dtype == np.uint8
    array, _ = read_labels(tmp_path / "a.nii.gz", reader, frozenset((0, 2, 300)), [])
    assert array is not None and array.dtype == np.uint16


def test_values_that_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "ref" / "a.nii.gz", blocks((1, 0, 3)))
    write(tmp_path / "pred" / "a.nii.gz", np.full((4, 6, 8), 0.5, np.float32))
    with pytest.raises(DataError, match=r"holds label\(s\) 0\.5"):
        score(tmp_path)


def run_command(*argv: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    evaluate.run(parser.parse_args(argv))


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))
    write(tmp_path / "pred" / "extra.nii.gz", blocks())
    # nnUNetv2_predict leaves dataset.json beside its predictions
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps(ONE_TASK))
    folders = ("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1")
    run_command(*folders)
    captured = capsys.readouterr()
    assert "liver" in captured.out and "evaluation.json" in captured.out
    assert "Warning" in captured.err and "extra.nii.gz" in captured.err
    run_command(*folders, "-o", str(tmp_path / "new" / "out.json"), "--unit", "voxel")
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["unit"] == "voxel"
    assert written["mean"]["labels"]["liver"]["mean"]["Dice"] == 1.0
    assert written["cases"][0]["case"] == "a"


def test_command_scores_the_rest_and_fails_for_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))
    write(tmp_path / "ref" / "b.nii.gz", blocks())
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps(ONE_TASK))
    with pytest.raises(DataError, match=r"not fully scored.*\n.*b\.nii\.gz: prediction missing"):
        run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1")
    assert "liver" in capsys.readouterr().out
    written = json.loads((tmp_path / "pred" / "evaluation.json").read_text())
    assert [c["case"] for c in written["cases"]] == ["a"]
    assert len(written["problems"]) == 1


def test_csv_has_a_row_for_each_label_of_each_case(tmp_path: Path) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 1, 4)))
    evaluation = score(tmp_path)
    first, second = csv_rows(evaluation)
    assert first["case"] == "a" and first["label"] == "liver" and first["Dice"] == pytest.approx(2 / 3)
    assert second["label"] == "tumour" and second["Dice"] == "" and second["n_ref"] == 0
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps(ONE_TASK))
    run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1")
    lines = (tmp_path / "pred" / "evaluation.csv").read_text().splitlines()
    assert lines[0] == "case,task,label,Dice,Jaccard,HD95,ASD,n_pred,n_ref"
    assert lines[2] == "a,Liver,tumour,,,,,0,0"


def test_command_needs_references(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-ref FOLDER is needed"):
        run_command("-pred", str(tmp_path))


def test_command_finds_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))
    dataset = tmp_path / "raw" / "Dataset987_Liver"
    dataset.mkdir(parents=True)
    (dataset / "dataset.json").write_text(json.dumps(ONE_TASK))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1", "-d", "987")
    assert (tmp_path / "pred" / "evaluation.json").is_file()


def test_a_copy_of_the_preprocessed_data_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))
    dataset = tmp_path / "preprocessed" / "Dataset987_Liver"
    dataset.mkdir(parents=True)
    (dataset / "dataset.json").write_text(json.dumps(ONE_TASK))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1", "-d", "987")
    assert (tmp_path / "pred" / "evaluation.json").is_file()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "a", blocks((1, 0, 3)), blocks((1, 0, 3)))
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps(ONE_TASK))
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "out.json")
    with pytest.raises(DataError, match=r"out\.json cannot be written .* Name another file with -o"):
        run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"), "-np", "1", "-o", output)


def test_a_comparison_needs_no_file_in_the_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in "abc":
        pair(tmp_path, case, blocks((1, 0, 3)), blocks((1, 0, 3)))
        write(tmp_path / "other" / f"{case}.nii.gz", blocks((1, 1, 4)))
    (tmp_path / "other" / "evaluation.json").mkdir()  # nothing can be written there
    (tmp_path / "dataset.json").write_text(json.dumps(ONE_TASK))
    folders = ("--compare", str(tmp_path / "pred"), str(tmp_path / "other"), "-ref", str(tmp_path / "ref"))
    output = tmp_path / "out.json"
    run_command(*folders, "-djfile", str(tmp_path / "dataset.json"), "-np", "1", "-o", str(output))
    assert "other/evaluation.json cannot be written" in capsys.readouterr().err
    assert (tmp_path / "pred" / "evaluation.json").is_file()
    assert json.loads(output.read_text())["rows"][0]["pairs"] == 3


def test_command_says_how_to_name_the_dataset(tmp_path: Path) -> None:
    pair(tmp_path, "a", blocks(), blocks())
    with pytest.raises(DataError, match="Name the dataset with -d or its file with -djfile"):
        run_command("-ref", str(tmp_path / "ref"), "-pred", str(tmp_path / "pred"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"lacks the key\(s\) labels, file_ending"):
        run_command("-ref", "r", "-pred", "p", "-djfile", str(tmp_path / "other.json"))
