"""``path/to/file.py:factory``: a user-defined function that builds a network or that a recipe names."""

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from torch import nn

from intraq_cli.errors import IntraqError, ModelError, RecipeError
from intraq_cli.runtime.extensions import explained
from intraq_cli.runtime.torch_defaults import usual_settings
from intraq_cli.words import did_you_mean

_siblings: set[str] = set()
"""Names of the modules that user files have imported from their own folders."""


def call_factory(spelled: str) -> nn.Module:
    """Run the function ``factory()`` that ``path/to/file.py:factory`` names.

    While it runs, files and packages in the same folder can be imported; relative imports work if it is a package.

    Raises:
        ModelError: the file or the function fails, or does not return an ``nn.Module``.
    """
    # its settings of torch and its working folder do not last, and what it prints goes to stderr
    with _named(spelled, "factory", ModelError) as function, usual_settings(), redirect_stdout(sys.stderr), chdir("."):
        network = function()
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spelled} returned {type(network).__name__}, not an nn.Module")
    return network


def load_function(spelled: str) -> Callable[[Any], Any]:
    """Return the function that ``path/to/file.py:function`` names in a recipe; the file is run, the function is not.

    Raises:
        RecipeError: the file fails, or has no such function.
    """
    with _named(spelled, "function", RecipeError) as function:
        return function


def factories_in(path: Path) -> list[str]:
    """Return the names of a file's functions and classes that need no arguments, without running the file."""
    try:
        found = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in found if not getattr(node, "name", "_").startswith("_") and _needs_nothing(node)]


def _needs_nothing(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return not made or _required(made[0].args) == 1
    return isinstance(node, ast.FunctionDef) and _required(node.args) == 0


def _required(given: ast.arguments) -> int:
    """Return how many arguments a call must pass, including ``self``."""
    return len(given.posonlyargs + given.args) - len(given.defaults) + given.kw_defaults.count(None)


@contextmanager
def _named(spelled: str, word: str, kind: type[IntraqError]) -> Iterator[Callable[..., Any]]:
    """Within the block, a user's function can be called; its errors are reported with file and line.

    Raises:
        IntraqError: of ``kind``: the file or the function fails, or does not exist.
    """
    text, _, name = spelled.rpartition(":")
    path = Path(text)
    if not os.path.isfile(path):
        raise kind(f"there is no file {path}", f"write path/to/file.py:{word}")
    if not name.isidentifier():
        raise kind(f"{name!r} is not a function name", f"write path/to/file.py:{word}")
    try:
        with _importable(path):
            module = _imported(path)
            function = getattr(module, name, None)
            if not callable(function):
                functions = [one for one in dir(module) if callable(getattr(module, one, None))]
                raise kind(f"{path} has no function {name}", did_you_mean(name, functions))
            yield function
    except IntraqError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(explained(error, path), "the error is in that file") from error


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Within the block, modules in the folder of ``path``, and the package that it is in, can be imported.

    The modules stay in ``sys.modules`` afterwards, since a network may import them while it runs. The next factory
    removes them, since its own modules may have the same names.
    """
    for name in _siblings:
        sys.modules.pop(name, None)
    _siblings.clear()
    importlib.invalidate_caches()
    folder = path.resolve().parent
    root = folder if not _package(path) else folder.parents[_package(path).count(".")]
    before, known = list(sys.path), set(sys.modules)
    caching, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # write no __pycache__ beside the user's file
    sys.path[:0] = dict.fromkeys([str(folder), str(root)])
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, caching
        new = {name.partition(".")[0] for name in sys.modules.keys() - known}
        beside = {name for name in new if name in sys.modules and _is_beside(sys.modules[name], (folder, root))}
        _siblings.update(name for name in sys.modules if name.partition(".")[0] in beside)


def _is_beside(module: ModuleType, folders: tuple[Path, ...]) -> bool:
    """Whether a module or package is directly in one of ``folders``, not in a virtual environment below them."""
    places = [getattr(module, "__file__", None), *(f"{part}/x" for part in getattr(module, "__path__", ()))]
    packages = [Path(place).parent for place in places if place]
    return any(place in folders or (place.parent in folders and hasattr(module, "__path__")) for place in packages)


def _package(path: Path) -> str:
    """Return the package that a file is in, e.g. ``nets.small``; empty if it is in none."""
    folder, parts = path.resolve().parent, []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(parts))


def _imported(path: Path) -> ModuleType:
    package = _package(path)
    if package and re.search(rb"^\s*from\s+\.", path.read_bytes(), re.MULTILINE):
        found = importlib.import_module(f"{package}.{path.stem}")
        if Path(str(found.__file__)) != path.resolve():
            raise ModelError(f"{path}: another package {package} is already imported: {found.__file__}", "rename one")
        return found
    spec = importlib.util.spec_from_file_location(f"_intraq_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up a module by its name
    spec.loader.exec_module(module)
    return module
