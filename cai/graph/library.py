"""The library of models: whole graphs with known answers, one a file.

Each file has `build(**options) -> TrajectoryGraph`, and a doc string that says what the answer is.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cai.graph.trajectory_graph import TrajectoryGraph

_PACKAGE = Path(__file__).resolve().parent.parent
#: In a wheel the models lie inside the package, in a checkout beside it.
_PLACES = (_PACKAGE / "_models", _PACKAGE.parent / "models")


def load_model(name_or_path: str | Path, **options: Any) -> TrajectoryGraph:
    """Builds a graph from the library, or from a file of the user's own.

    Args:
        name_or_path: A model's name (`cai.models()` lists them), or a path to a Python file with a function
            `build(**options) -> TrajectoryGraph`. The file is run: load only what you trust.
        **options: Passed to `build`.

    Returns:
        The graph.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No such model, no `build` in the file, options that `build` does not have, or a wrong result.
    """
    path = _path_of(str(name_or_path))
    build = getattr(_module(path), "build", None)
    if not callable(build):
        raise ValueError(f"model {path.stem!r}: {path} has no function build(**options)")
    _check_options(path.stem, build, options)
    graph = build(**options)
    if not isinstance(graph, TrajectoryGraph):
        raise ValueError(f"model {path.stem!r}: build returned {type(graph).__name__}, not a TrajectoryGraph")
    return graph


def models() -> dict[str, str]:
    """Lists the library: the name of each model, and the first line of its doc string."""
    found: dict[str, str] = {}
    for place in _PLACES:
        for path in sorted(place.glob("[!_]*.py")) if place.is_dir() else ():
            lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
            found.setdefault(path.stem, lines[0] if lines else "")
    return found


def _path_of(name: str) -> Path:
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no model file {name!r}")
        return path
    for place in _PLACES:
        if (path := place / f"{name}.py").is_file():
            return path
    raise ValueError(f"no model {name!r}; the models are {', '.join(models())}")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cai_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file look themselves up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"model {path.stem!r}: running {path} failed: {type(error).__name__}: {error}") from error
    return module


def _check_options(name: str, build: Any, options: dict[str, Any]) -> None:
    parameters = inspect.signature(build).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = sorted(set(required) - set(options))
    if missing:
        raise ValueError(f"model {name!r} needs the option {missing[0]!r}")
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}; its options are {', '.join(parameters)}")
