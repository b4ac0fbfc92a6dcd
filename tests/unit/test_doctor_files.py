"""File names, dataset.json, resources and the report."""

import json
from pathlib import Path

import pytest

from nnunet_ssl.doctor import machine, report
from nnunet_ssl.doctor.checks import files, resources
from nnunet_ssl.doctor.examine import Request, examine
from nnunet_ssl.doctor.findings import CHECK_NAMES, Finding, Severity, accept, ranked
from nnunet_ssl.doctor.inventory import check_names, list_cases
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from tests.unit.doctor_facts import case, need, said, study

GOOD = ["imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz"]
JSON = {
    "labels": {"background": 0, "organ": 1},
    "channel_names": {"0": "MRI"},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def names(root, paths, content=JSON):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return check_names(root, content, list_cases(root, content))


def test_good_names_are_fine(tmp_path):
    others = ["imagesUn/u_0000.nii.gz", "imagesUn/README.txt", "imagesTr/.DS_Store", "imagesTr/a.json"]
    assert names(tmp_path, [*GOOD, *others]) == []
    assert [(c.folder, c.case, c.label is not None) for c in list_cases(tmp_path, JSON)] == [
        ("imagesTr", "a", True),
        ("imagesTr", "b", True),
        ("imagesUn", "u", False),
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("imagesUn/u.nii.gz", ("error", "file-names", ("u.nii.gz",))),
        ("imagesUn/u_000.nii.gz", ("error", "file-names", ("u_000.nii.gz",))),
        ("imagesUn/u_0000.nii", ("warning", "file-names", ("u_0000.nii",))),
        ("imagesTs/t_0000.NII.GZ", ("warning", "file-names", ("t_0000.NII.GZ",))),
        ("imagesUn/u_0000.dcm", ("warning", "file-names", ("u_0000.dcm",))),
        ("labelsTr/b.png", ("warning", "file-names", ("b.png",))),
        ("labelsTr/c.nii.gz", ("warning", "orphan-label", ("c.nii.gz",))),
        ("imagesTr/c_0000.nii.gz", ("error", "missing-label", ("c",))),
        ("imagesUn/u_0001.nii.gz", ("error", "missing-channel", ("imagesUn/u",))),
    ],
)
def test_wrong_names(tmp_path, path, expected):
    assert said(names(tmp_path, [*GOOD, path])) == [expected]


def test_hidden_files_are_scans_in_imagestr_only(tmp_path):
    """As macOS leaves them: nnU-Net takes those of imagesTr for cases, the trainers ignore the others."""
    hidden = [f"{folder}/._x_0000.nii.gz" for folder in ("imagesTr", "imagesUn", "imagesTs")]
    names(tmp_path, [*GOOD, *hidden, "imagesUn/.tmp-u_0000.nii.gz"])
    listed = [(c.folder, c.case) for c in list_cases(tmp_path, JSON)]
    assert listed == [("imagesTr", "._x"), ("imagesTr", "a"), ("imagesTr", "b")]


def test_a_label_whose_link_is_broken_is_not_missing(tmp_path):
    names(tmp_path, GOOD[:3])
    (tmp_path / "labelsTr" / "b.nii.gz").symlink_to(tmp_path / "moved.nii.gz")
    cases = list_cases(tmp_path, JSON)
    assert check_names(tmp_path, JSON, cases) == []
    assert cases[1].label == tmp_path / "labelsTr" / "b.nii.gz"


def test_labels_of_the_first_nnunet_are_named_before_anything_is_read(tmp_path):
    names(tmp_path, GOOD)
    content = JSON | {"labels": {"0": "background", "1": "organ"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(TaskError, match="expected names with numbers.*'0': 'background'.*swap"):
        examine(Request(tmp_path))


@pytest.mark.parametrize("labels", [["background", "organ"], None])
def test_labels_without_numbers_are_refused(tmp_path, labels):
    names(tmp_path, GOOD)
    (tmp_path / "dataset.json").write_text(json.dumps(JSON | {"labels": labels}))
    with pytest.raises(DataError, match="expected 'labels' to be names with numbers"):
        examine(Request(tmp_path))


def test_files_that_dataset_json_lists(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    listed = {"x": {"images": ["elsewhere/scan.nii.gz"], "label": "elsewhere/mask.nii.gz"}}
    assert (
        names(tmp_path, ["elsewhere/scan.nii.gz", "elsewhere/mask.nii.gz"], JSON | {"dataset": listed}) == []
    )


def test_unreadable():
    cases = [case("a"), case("b", unreadable=(("b_0000.nii.gz", "cut off"),))]
    findings = files.check_readable(study(cases))
    assert said(findings) == [("error", "unreadable", ("b",))]
    assert findings[0].details == ("b_0000.nii.gz: cut off",)
    assert files.check_readable(study(cases[:1])) == []


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"numTraining": 5}, "warning", "counts 5 training cases, imagesTr holds 1"),
        ({"labels": {"background": 0, "organ": 2}}, "error", "have a gap"),
        ({"labels": {"organ": 1, "none": 0}}, "error", "no 'background': 0"),
        ({"labels": {"background": 0, "ignore": 1, "organ": 2}}, "error", "ignore label is not the highest"),
        ({"labels": {"background": 0, "all": [1, 2], "core": [2]}}, "error", "lacks regions_class_order"),
    ],
)
def test_dataset_json(change, severity, words):
    (finding,) = files.check_dataset_json(study([case("a")], dataset_json=change))
    assert (str(finding.severity), finding.check) == (severity, "dataset-json")
    assert words in finding.found


def test_a_dataset_without_cases():
    assert [f.check for f in files.check_dataset_json(study([]))] == ["no-cases"]
    assert files.check_dataset_json(study([case("a")])) == []


def test_planned_shape_by_hand():
    # z, y, x of 10 x 20 x 30 at 3 x 1 x 1 mm to 1.5 x 2 x 1 mm: 20 x 10 x 30
    assert resources.planned_shape((10, 20, 30), (3, 1, 1), (1.5, 2, 1), (0, 1, 2)) == (20, 10, 30)
    # transposed: x first; a 2D plan leaves it alone
    assert resources.planned_shape((10, 20, 30), (3, 1, 1), (1.5, 2), (2, 0, 1)) == (30, 20, 10)


def test_only_what_is_not_done_needs_room():
    cases = [
        case("a"),
        case("b"),
        case("u", "imagesUn"),
        case("t", "imagesTs"),
    ]  # 8 x 12 x 12 at 2 x 1 x 1 mm
    done = frozenset({("imagesTr", "a")})
    to_do = resources.voxels_to_do(study(cases), (1, 1, 1), (0, 1, 2), done)
    assert to_do == [(1152, 2304)] * 2


@pytest.mark.parametrize(
    ("change", "severity", "check"),
    [
        ({"disk": 39_000_000}, "warning", "disk"),  # 10 megavoxels: 14 to 40 MB
        ({"disk": 13_000_000}, "error", "disk"),
        ({"memory": 280_000_000}, "warning", "memory"),  # 71 MB a case, 4 processes
        ({"memory": 70_000_000}, "error", "memory"),
        ({"gpu_needed": 12e9}, "warning", "graphics-memory"),
    ],
)
def test_too_little(change, severity, check):
    (finding,) = resources.check_need(need(**change))
    assert (str(finding.severity), finding.check) == (severity, check)


def test_enough_or_unknown():
    assert resources.check_need(need()) == []
    assert resources.check_need(need(disk=None, memory=None, gpu=None, gpu_needed=None)) == []
    assert resources.check_need(need(shapes=[])) == []


def test_memory_advice():
    (finding,) = resources.check_need(need(memory=150_000_000))
    assert "-np 2" in finding.todo


def test_memory_within_a_container(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 350\n")
    assert machine._cgroup_memory((tmp_path,)) == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._cgroup_memory((tmp_path,)) is None
    assert machine._cgroup_memory((tmp_path / "none",)) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert machine._system_memory(tmp_path / "meminfo") == 5120
    assert machine.free_disk(tmp_path / "not" / "yet") == pytest.approx(machine.free_disk(tmp_path), rel=0.2)


ERROR = Finding(
    Severity.ERROR, "nan", "2 case(s) have NaN.", "Replace them.", ("a", "b"), ("3 voxels", "4 voxels")
)
NOTE = Finding(Severity.NOTE, "spacing", "Odd.", "Look.", tuple("abcde"))


def test_table():
    assert ranked([NOTE, ERROR]) == [ERROR, NOTE]
    lines = report.format_findings([ERROR, NOTE], 80).splitlines()
    assert lines[2].startswith("error     nan")
    assert all(len(line) <= 80 for line in lines)
    start, end = (lines[0].index(f"what {rest}") for rest in ("was found", "to do"))
    text = " ".join(" ".join(line[start:end] for line in lines[2:]).split())
    assert "2 case(s) have NaN. a (3 voxels); b (4 voxels)" in text
    assert "Odd. a; b; c; and 2 more" in text


def test_verdict():
    assert report.verdict([]) == "All fine: nothing found. Training may start."
    assert report.verdict([NOTE, NOTE]) == "2 notes. No errors: training may start."
    assert report.verdict([ERROR, NOTE]).startswith("1 error, 1 note. Training should not start")


def test_json_names_every_case():
    one = study([case("a")])
    content = json.loads(json.dumps(report.to_json(one, [NOTE], 1.0)))
    assert [c["case"] for c in content["findings"][0]["cases"]] == list("abcde")
    assert content["may_start"] is True
    assert content["cases"][0]["labels"] == {"0": 10, "1": 10, "2": 10}


def test_accept():
    lowered = accept([ERROR, NOTE], ["nan"])
    assert [f.severity for f in lowered] == [Severity.WARNING, Severity.NOTE]
    assert accept([ERROR], ["spacing"]) == [ERROR]
    with pytest.raises(ConfigError, match="unknown nam"):
        accept([], ["nam"])
    assert len(set(CHECK_NAMES)) == len(CHECK_NAMES)


def test_the_page_on_the_doctor_explains_every_check():
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    explained = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "| " in line]
    assert set(CHECK_NAMES) <= set(explained)
