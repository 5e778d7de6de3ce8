"""The structure of the package: which part may import which, and how long files and functions may be."""

import ast
from pathlib import Path

import pytest

import intraq_cli

PACKAGE = Path(intraq_cli.__file__).parent
ROOMS = [
    *("app", "commands", "api", "jobs", "publish", "reports", "deploy"),
    *("tuning", "evaluation", "synthesis", "checkpoint", "models"),
    *("quantization", "runtime", "zoo", "recipe", "recipe_errors", "choices"),
    *("io", "graph", "results", "events", "errors", "words", "__version__"),
]
"""The parts of the package from the top layer down: a part imports only parts that come later."""
FILES = sorted(PACKAGE.rglob("*.py"))


def modules_imported(tree):
    """All modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "intraq_cli":
            yield from [node.module] if "." in node.module else [f"intraq_cli.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("intraq_cli."))


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_import_only_lower_layers(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room in ("__init__", "__main__"):
        return
    for module in modules_imported(parsed(path)):
        other = module.split(".")[1]
        assert ROOMS.index(other) >= ROOMS.index(room), f"{room} is below {other}"


def test_modules_have_no_circular_imports():
    def name(path):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    # without intraq_cli itself, which imports only for type checkers
    todo = {name(path): {m for m in modules_imported(parsed(path)) if m != name(path)} for path in FILES}
    todo = {module: imports & todo.keys() for module, imports in todo.items() if module != "intraq_cli"}
    while free := [module for module, imports in todo.items() if not imports & todo.keys()]:
        for module in free:
            del todo[module]
    assert not todo


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_have_at_most_300_lines_and_functions_40(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


def test_files_of_tests_have_at_most_300_lines():
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in Path(__file__).parents[1].rglob("*.py")}
    assert not [path for path, lines in lengths.items() if lines > 300]


def test_package_uses_no_torch_function_mode_and_no_private_torch_module():
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert "TorchFunctionMode" not in source, path
        assert "torch._C" not in source, path
