"""The stubs beside the extensions say what the extensions are: mypy believes them."""
from __future__ import annotations

import ast
import enum
import importlib
import inspect
from pathlib import Path

import pytest

TREE = Path(__file__).parents[1]
STUBS = sorted(p for folder in ("fastpath", "bench") for p in (TREE / folder).glob("*.pyi"))


def stubbed(stub: Path) -> dict[str, list[str]]:
    """Each public class and function of a stub, methods as CLASS.METHOD, with its parameters; of an enum the members."""
    names: dict[str, list[str]] = {}

    def parameters(f: ast.FunctionDef) -> list[str]:
        a = f.args
        return [x.arg for x in (*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else []))]
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            names[node.name] = [f"{t.id}={ast.literal_eval(a.value)}" for a in node.body if isinstance(a, ast.Assign)
                                for t in a.targets if isinstance(t, ast.Name)]
            for f in node.body:
                if isinstance(f, ast.FunctionDef) and f.name != "__init__":
                    names[f"{node.name}.{f.name}"] = parameters(f)
                elif isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name):
                    names[f"{node.name}.{f.target.id}"] = ["self"]
    return names


def compiled(module) -> dict[str, list[str]]:
    """The same of an extension module."""
    names: dict[str, list[str]] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if not inspect.isclass(value):
            names[name] = list(inspect.signature(value).parameters)
        elif issubclass(value, enum.Enum):
            names[name] = [f"{member}={int(v)}" for member, v in value.__members__.items()]
        else:
            names[name] = []
            for method, f in vars(value).items():
                if not method.startswith("_"):
                    names[f"{name}.{method}"] = ["self"] if inspect.isdatadescriptor(f) else list(inspect.signature(f).parameters)
    return names


@pytest.mark.parametrize("stub", STUBS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_stub_is_its_module(stub):
    module = importlib.import_module(f"headrace.{stub.parent.name}.{stub.stem}")
    assert stubbed(stub) == compiled(module)


def test_extensions_that_others_import_have_stubs():
    """Probes, whose names begin with an underscore, are for tests alone; stages have no doors."""
    doors = {p.with_suffix(".pyi") for folder in ("fastpath", "bench") for p in (TREE / folder).glob("[!_]*.pyx")
             if compiled(importlib.import_module(f"headrace.{folder}.{p.stem}"))}
    assert doors and doors <= set(STUBS)
