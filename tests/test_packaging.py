"""What an installation brings: three packages by name, and no package `kernels`, a name that is Hugging Face's."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_megakernels_is_found_in_its_folder_and_the_folder_is_no_package(monkeypatch):
    read = pytest.importorskip("setuptools.config.pyprojecttoml").read_configuration
    monkeypatch.chdir(ROOT)
    found = read(os.fspath(ROOT / "pyproject.toml"), expand=True)["tool"]["setuptools"]["packages"]
    assert {"megacontext", "megacontext.models", "workbench", "megakernels"} <= set(found)
    assert not [
        name for name in found if name.split(".")[0] not in ("megacontext", "megakernels", "workbench")
    ]


def test_folders_that_hold_packages_and_scripts_are_no_packages():
    assert not [
        name for name in ("kernels", "data", "tests", "tools") if (ROOT / name / "__init__.py").exists()
    ]
