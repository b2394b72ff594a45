"""Imports run one way, from the command line down to the errors; the core never imports a method."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cai"

# A module may import from its own room and from those before it. `cai/__init__.py` only gathers names and is exempt.
ROOMS = (
    "errors",
    "ops",
    "data",
    "factors",
    "graph",
    "simulate",
    "inference",
    "methods",
    "learning",
    "compose",
    "plan",
    "plots",
    "cli",
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    """The room that a module of the package stands in: its first folder, or its own name; `__main__` is the cli."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The dotted name of the module that a `from ... import` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    package = ("cai", *path.relative_to(PACKAGE).parts[:-1])
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def imported_names(tree: ast.AST, path: Path) -> set[str]:
    """Every dotted name that the module imports anywhere in its text, lazily or for types only too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{absolute(node, path)}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
    return names


def imported_rooms(tree: ast.AST, path: Path) -> set[str]:
    """The rooms among the imported names; the package itself counts as the room "cai"."""
    ours = [name.split(".") for name in imported_names(tree, path) if name.split(".")[0] == "cai"]
    return {parts[1] if len(parts) > 1 and parts[1] in ROOMS else "cai" for parts in ours}


def offences(source: str, path: Path) -> list[str]:
    """What a module imports against the direction."""
    own = ROOMS.index(room_of(path))
    allowed = set(ROOMS[: own + 1]) | ({"cai"} if ROOMS[own] == "cli" else set())
    return sorted(imported_rooms(ast.parse(source), path) - allowed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_from_rooms_before_its_own(path: Path) -> None:
    assert room_of(path) in ROOMS, "a new room: give it its place in ROOMS"
    assert offences(path.read_text(), path) == []


@pytest.mark.parametrize(
    "source",
    [
        "import cai.methods.sum_product",
        "from cai.methods import SumProduct",
        "from cai import methods",
        "from cai import SumProduct",
        "from ..methods import SumProduct",
        "from .. import methods",
        "def f():\n    from cai.methods import SumProduct",
        "import importlib\nimportlib.import_module('cai.methods')",
        "import cai",
    ],
)
def test_the_test_sees_every_way_to_import_a_method_from_the_core(source: str) -> None:
    assert offences(source, PACKAGE / "inference" / "infer.py") != []


def test_a_module_may_import_its_own_room_and_earlier_ones() -> None:
    source = (
        "import torch\nfrom cai.errors import NonFinite\nfrom .posterior import Posterior\nfrom ..ops import logsumexp"
    )
    assert offences(source, PACKAGE / "inference" / "infer.py") == []
