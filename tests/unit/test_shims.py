"""``trainers/``: every file hands on one class of ``nnunet_ssl.training`` and defines nothing."""

import ast
import importlib
import importlib.util
import os
import pickle
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "trainers"
SHIMS = sorted(FOLDER.glob("nnUNetTrainer*.py"))
NAMES = [path.stem for path in SHIMS]


def _parse(path):
    return ast.parse(path.read_text())


def test_folder_holds_shims_and_nothing_else():
    # nnU-Net imports every module and package here, at each search
    assert SHIMS
    assert sorted(p.name for p in FOLDER.rglob("*.py")) == sorted(["__init__.py", *(p.name for p in SHIMS)])


@pytest.mark.parametrize("path", SHIMS, ids=NAMES)
def test_shim_is_docstring_import_and_all(path):
    tree = _parse(path)
    docstring, statement, names = tree.body
    assert isinstance(docstring, ast.Expr)
    assert f"-tr {path.stem}" in ast.get_docstring(tree)
    assert isinstance(statement, ast.ImportFrom)
    assert statement.module.startswith("nnunet_ssl.training.")
    assert [alias.name for alias in statement.names] == [path.stem]
    assert ast.unparse(names) == f"__all__ = ['{path.stem}']"


@pytest.mark.parametrize("name", NAMES)
def test_table_of_contents_names_every_trainer(name):
    assert f"| ``{name}`` |" in ast.get_docstring(_parse(FOLDER / "__init__.py"))


@pytest.mark.parametrize("path", SHIMS, ids=NAMES)
def test_shim_hands_on_the_class_itself(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    trainer = getattr(module, path.stem)
    assert trainer is getattr(importlib.import_module(trainer.__module__), path.stem)
    assert trainer.__module__.startswith("nnunet_ssl.training.")


@pytest.mark.parametrize("name", NAMES)
def test_nnunet_finds_the_same_class_each_time(name, monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", str(FOLDER))
    trainer = recursive_find_trainer_class_by_name(name)
    assert trainer.__name__ == name
    assert recursive_find_trainer_class_by_name(name) is trainer
    assert pickle.loads(pickle.dumps(trainer)) is trainer


def test_folder_of_the_user_is_searched_first(tmp_path, monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        f"class {NAMES[0]}(nnUNetTrainer):\n    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), str(FOLDER)]))
    assert recursive_find_trainer_class_by_name(NAMES[0]).__module__ == "mine"
    assert recursive_find_trainer_class_by_name(NAMES[1]).__module__.startswith("nnunet_ssl.training.")
