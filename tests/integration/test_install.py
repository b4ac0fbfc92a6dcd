"""After ``pip install``, wheel or editable, nnU-Net finds our trainers and nothing stray lies around."""

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.environments import PIP, Environment, call

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("pip") is None, reason="needs pip in the running environment"
    ),
]

ROOT = Path(__file__).parents[2]
TRAINERS = sorted(path.stem for path in (ROOT / "trainers").glob("nnUNetTrainer*.py"))
BUILD_FILES = (
    "pyproject.toml",
    "setup.py",
    "nnunet_ssl.pth",
    "README.md",
    "LICENSE",
    "nnunet_ssl",
    "trainers",
    "dataset_conversion",
)
OFFLINE = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")

FIND_ALL = f"""
import importlib.util, pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
for name in {TRAINERS}:
    trainer = recursive_find_trainer_class_by_name(name)
    assert trainer.__module__.startswith("nnunet_ssl.training."), trainer
    assert pickle.loads(pickle.dumps(trainer)) is trainer
for stray in ("trainers", "dataset_conversion", "tests", "benchmarks", "docs", "setup"):
    spec = importlib.util.find_spec(stray)
    assert spec is None or "nnunet_ssl" not in str(spec.origin), spec
"""
VALUE = "import os; print(os.environ.get('nnUNet_extTrainer'))"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a build needs: building must not write into the checkout."""
    folder = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in BUILD_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    call(
        sys.executable,
        "-c",
        f"from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})",
        cwd=project,
    )
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, by way of the source distribution: what is on a package index."""
    out = tmp_path_factory.mktemp("wheel")
    call(*PIP, "wheel", *OFFLINE, "-w", out, sdist)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.pip("install", *OFFLINE, "--force-reinstall", wheel)
    return environment


@pytest.fixture(scope="module")
def editable(project, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("editable"))
    environment.pip("install", *OFFLINE, "--force-reinstall", "-e", project)
    return environment


def test_wheel_holds_every_module_and_nothing_stray(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/RECORD"))
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "nnunet_ssl",
        "nnunet_ssl.pth",
    }
    assert "\nnnunet_ssl.pth," in f"\n{record}"  # so pip removes it again
    modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / "nnunet_ssl").rglob("*.py")]
    shims = [f"nnunet_ssl/_trainers/{path.name}" for path in (ROOT / "trainers").glob("*.py")]
    recipes = [
        f"nnunet_ssl/_dataset_conversion/{path.name}" for path in (ROOT / "dataset_conversion").glob("*.py")
    ]
    assert sorted(n for n in names if n.endswith(".py")) == sorted(modules + shims + recipes)
    assert "nnunet_ssl/py.typed" in names


def test_wheel_is_found(installed):
    installed.run(FIND_ALL)
    assert installed.run(VALUE) == str(installed.packages / "nnunet_ssl" / "_trainers")


def test_editable_is_found(editable, project):
    editable.run(FIND_ALL)
    assert editable.run(VALUE) == str(project / "trainers")


def test_recipes_are_found(installed, editable, project, tmp_path):
    """In a wheel, an editable installation, and a checkout that is not installed at all."""
    recipes = sorted(p.stem for p in (ROOT / "dataset_conversion").glob("[!_]*.py"))
    command = "from nnunet_ssl.cli import main; main(['convert', '--list'])"
    bare = Environment(tmp_path)
    printed = [
        installed.run(command),
        editable.run(command),
        bare.run(f"import sys; sys.path.insert(0, {str(project)!r}); {command}"),
    ]
    for table in printed:
        assert [line.split()[0] for line in table.splitlines()[2:]] == recipes


def test_opt_out(installed):
    assert installed.run(VALUE, NNUNET_SSL_NO_AUTODISCOVERY="1") == "None"


def test_child_processes_inherit_without_growth(installed):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {VALUE!r}], check=True)"
    assert installed.run(child) == installed.run(VALUE)


def test_folder_of_the_user_keeps_working(installed, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerMine(nnUNetTrainer):\n    pass\n"
    )
    code = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        f"print('RESULT', find('nnUNetTrainerMine').__module__, find({TRAINERS[0]!r}).__module__)"
    )
    last = installed.run(code, nnUNet_extTrainer=str(tmp_path)).splitlines()[-1]
    assert last.startswith("RESULT mine nnunet_ssl.training.")


def test_python_starts_when_the_package_is_gone(wheel, tmp_path):
    environment = Environment(tmp_path)
    environment.pip("install", *OFFLINE, "--force-reinstall", wheel)
    shutil.rmtree(environment.packages / "nnunet_ssl")
    assert environment.run(VALUE) == "None"


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_uninstall_leaves_nothing(how, wheel, project, tmp_path):
    environment = Environment(tmp_path)
    source = [wheel] if how == "wheel" else ["-e", project]
    environment.pip("install", *OFFLINE, "--force-reinstall", *source)
    assert "nnunet_ssl.pth" in environment.new_names()
    environment.pip("uninstall", "--quiet", "--yes", "nnunet-ssl")
    assert environment.new_names() == set()
