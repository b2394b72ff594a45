"""Every public name says what it is, and gives the shape of the tensors that it takes."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cai

TENSOR = re.compile(r"Tensor|ndarray|ArrayLike")
# `[S, A]`, `[T+1, S]`, `[*batch, S]`, `[]`; or said in words.
SHAPE = re.compile(r"`\[[^\]\n]*\]|any shape|any batch|same shape|broadcast|scalar|0-dim|one dimension a")
PUBLIC_MODULES = ("cai", "cai.data", "cai.errors", "cai.factors", "cai.methods", "cai.ops", "cai.plan", "cai.plots")

# The names of the top level that are settled; others may join them.
PROMISED = (
    "Checkpoint",
    "CorruptFile",
    "Factor",
    "FactorGraph",
    "factors",
    "from_gym",
    "GridSpace",
    "IncompatibleMethod",
    "infer",
    "load",
    "load_model",
    "MaxProduct",
    "models",
    "NonFinite",
    "NotConverged",
    "PolicyEvaluation",
    "Posterior",
    "ProgressBar",
    "rollout",
    "SoftPolicyIteration",
    "SoftValueIteration",
    "SumProduct",
    "Trajectories",
    "TrajectoryGraph",
    "Unavailable",
    "UniformPolicy",
    "Variable",
)


def public_objects() -> dict[str, Any]:
    """Dotted name to object, of all that the public modules export."""
    found = {}
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            found[f"{module_name}.{name}"] = getattr(module, name)
    return found


def public_members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public functions and properties that the class or a parent of it inside the library defines."""
    for name, member in inspect.getmembers(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if name.startswith("_") or owner is None or not owner.__module__.startswith("cai"):
            continue
        if inspect.isfunction(member) or inspect.ismethod(member) or isinstance(member, property):
            yield name, member


def documented() -> Iterator[tuple[str, Any]]:
    """Every public function, class, method and property, once."""
    seen = set()
    for name, thing in public_objects().items():
        if inspect.ismodule(thing) or not (inspect.isclass(thing) or callable(thing)) or id(thing) in seen:
            continue
        seen.add(id(thing))
        yield name, thing
        if inspect.isclass(thing):
            yield from ((f"{name}.{member}", value) for member, value in public_members(thing))


DOCUMENTED = dict(documented())
FUNCTIONS = {name: thing for name, thing in DOCUMENTED.items() if inspect.isroutine(thing)}
CLASSES = {name: thing for name, thing in DOCUMENTED.items() if inspect.isclass(thing)}


def has_shape(text: str) -> bool:
    """Whether a doc string gives a shape."""
    return SHAPE.search(text) is not None


def takes_tensors(annotations: dict[str, Any]) -> bool:
    """Whether an argument is annotated as a tensor or an array."""
    return any(TENSOR.search(str(value)) for name, value in annotations.items() if name != "return")


def fields_of(cls: type) -> dict[str, Any]:
    """The annotations of the constructor: of the fields of a dataclass, else of `__init__`."""
    constructor = vars(cls).get("__init__")
    return dict(getattr(constructor, "__annotations__", {}))


def documentation(name: str) -> str:
    """The doc string of a public name; of a method, those of the methods that it overrides too."""
    owner = DOCUMENTED.get(name.rpartition(".")[0])
    if not inspect.isclass(owner):
        return inspect.getdoc(DOCUMENTED[name]) or ""
    member = name.rpartition(".")[2]
    return "\n".join(inspect.getdoc(vars(base)[member]) or "" for base in owner.__mro__ if member in vars(base))


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_public_name_has_a_doc_string(name: str) -> None:
    thing = DOCUMENTED[name]
    text = inspect.getdoc(thing) or ""
    generated = inspect.isclass(thing) and text.startswith(f"{thing.__name__}(")  # dataclasses write one themselves
    assert len(text.split()) >= 3 and not generated


@pytest.mark.parametrize("name", sorted(name for name, f in FUNCTIONS.items() if takes_tensors(f.__annotations__)))
def test_function_that_takes_tensors_gives_their_shapes(name: str) -> None:
    assert has_shape(documentation(name)), "say the shape of what it takes: `[S, A]`, scalar, any shape, broadcast"


@pytest.mark.parametrize("name", sorted(name for name, cls in CLASSES.items() if takes_tensors(fields_of(cls))))
def test_class_that_takes_tensors_gives_their_shapes(name: str) -> None:
    assert has_shape(documentation(name)), "say the shape of what it takes: `[S, A]`, scalar, any shape, broadcast"


def test_every_public_name_is_on_an_api_page() -> None:
    pages = "".join(page.read_text() for page in (Path(__file__).parents[2] / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    by_module = {id(thing) for name, thing in public_objects().items() if name.rpartition(".")[0] in shown}
    ours = {name: getattr(cai, name) for name in cai.__all__ if not inspect.ismodule(getattr(cai, name))}
    assert [name for name, thing in ours.items() if f"cai.{name}" not in shown and id(thing) not in by_module] == []
    assert [module for module in PUBLIC_MODULES if module not in shown | {"cai", "cai.data"}] == []


def test_all_lists_what_the_contract_promises() -> None:
    assert [name for name in PROMISED if name not in cai.__all__] == []
