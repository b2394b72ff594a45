"""The project's own files agree with each other."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import cai

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("plots", "tensorboard", "docs", "test", "dev")  # those that constraints.txt covers
SOLVE = "python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt . && cai solve FrozenLake-v1"
TEST = 'python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e ".[test]" && pytest'


def pinned() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def requirements() -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS for text in optional[extra])]
    return [r for r in map(Requirement, texts) if r.name != "cai"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_constraints_pin_a_version_that_the_project_allows(requirement: Requirement) -> None:
    assert ">=" in str(requirement.specifier), "give a lower bound"
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("package", sorted(pinned()))
def test_what_the_pinned_packages_need_is_pinned_too(package: str) -> None:
    try:
        installed = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed here")
    if Version(installed.version).public != pinned()[package].public:
        pytest.skip("another version is installed here")
    needs = [Requirement(text) for text in installed.requires or []]
    active = [r for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert [r.name for r in active if canonicalize_name(r.name) not in pinned()] == []


def test_version_stands_in_one_place() -> None:
    version = Version(cai.__version__)
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    try:
        installed = importlib.metadata.version("cai")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here, only on the path")
    assert Version(installed) == version


def test_readme_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert SOLVE in lines and TEST in lines


def test_ci_script_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0


def test_package_is_typed() -> None:
    assert (ROOT / "cai" / "py.typed").exists()


def test_every_docs_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in navigation] == []
