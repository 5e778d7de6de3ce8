"""``file.py:factory``: the file can import from its own folder, and ``sys.path`` is restored afterwards."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch

from intraq_cli import inspect
from intraq_cli.errors import ModelError
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.python_file import call_factory
from intraq_cli.models.source import Source

INPUT = InputOverride((3, 8, 8), (0.5,) * 3, (0.25,) * 3)


def write_nets(folder, head, within=""):
    """Write a factory whose network has ``WIDTH`` channels, set by ``head`` or by the line ``within`` the function."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(f"""{head}
from torch import nn

def net():
    {within or "pass"}
    norm = nn.BatchNorm2d(WIDTH)
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), norm, nn.Flatten(), nn.Linear(36 * WIDTH, 3))
""")
    return f"{folder}/nets.py:net"


def width(network):
    return network[0].out_channels


def test_factory_imports_files_from_its_own_folder(tmp_path):
    for number in (4, 5):  # each must import its own blocks.py
        model = write_nets(tmp_path / str(number), "from blocks import WIDTH")
        (tmp_path / str(number) / "blocks.py").write_text(f"WIDTH = {number}")
        before = list(sys.path)
        assert width(call_factory(model)) == number
        assert sys.path == before
    assert not list(tmp_path.rglob("*.pyc"))


def test_factory_function_imports_a_package_from_its_own_folder(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("from .sizes import WIDTH")
    (tmp_path / "parts/sizes.py").write_text("WIDTH = 6")
    assert width(call_factory(write_nets(tmp_path, "", "from parts import WIDTH"))) == 6


def write_package(folder, line):
    model = write_nets(folder / "small", line)
    (folder / "__init__.py").touch()
    (folder / "widths.py").write_text("WIDTH = 7")
    (folder / "small/__init__.py").write_text("from .nets import net")  # imports the factory itself
    (folder / "small/sizes.py").write_text("WIDTH = 7")
    return model


@pytest.mark.parametrize(
    "line", ["from .sizes import WIDTH", "from zoo_of_mine.small.sizes import WIDTH", "from ..widths import WIDTH"]
)
def test_factory_in_a_package_uses_package_imports(tmp_path, line):
    assert width(call_factory(write_package(tmp_path / "zoo_of_mine", line))) == 7


def test_another_imported_package_of_the_same_name_is_an_error(tmp_path, monkeypatch):
    model = write_package(tmp_path / "one/zoo_of_yours", "from .sizes import WIDTH")
    write_package(tmp_path / "other/zoo_of_yours", "from .sizes import WIDTH")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    import_module("zoo_of_yours.small.nets")
    try:
        with pytest.raises(ModelError, match=r"another package zoo_of_yours\.small is already imported"):
            call_factory(model)
    finally:
        for name in [name for name in sys.modules if name.startswith("zoo_of_yours")]:
            del sys.modules[name]


def test_sys_path_is_restored_after_a_failing_factory(tmp_path):
    before = list(sys.path)
    with pytest.raises(ModelError, match=r"nets\.py, line 3: ModuleNotFoundError"):
        call_factory(write_nets(tmp_path, "import sys\nsys.path.insert(0, 'x')\nimport nothing_of_that_name"))
    assert sys.path == before


def test_factory_file_that_exits_raises_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="SystemExit: 3"):
        call_factory(write_nets(tmp_path, "import sys\nsys.exit(3)"))


def test_library_in_an_environment_below_the_folder_is_imported_once(tmp_path, monkeypatch):
    """Libraries must not be imported twice into one process."""
    model = write_nets(tmp_path, "import library_of_mine\nWIDTH = 4")
    (tmp_path / "env").mkdir()
    (tmp_path / "env/library_of_mine.py").write_text("made = object()")
    monkeypatch.syspath_prepend(str(tmp_path / "env"))
    call_factory(model)
    made = sys.modules["library_of_mine"].made
    call_factory(model)
    assert sys.modules["library_of_mine"].made is made


WRAPPERS = {
    "compiled": "return torch.compile(net())",
    "parallel": "return torch.nn.DataParallel(net())",
    "both": "return torch.nn.DataParallel(torch.compile(net()))",
}


def test_wrappers_around_what_a_factory_returns_are_removed(tmp_path, factory):
    """Otherwise the names of its layers would start with those of the wrappers."""
    lines = [f"def {name}():\n    {line}\n" for name, line in WRAPPERS.items()]
    path = tmp_path / "wrapped.py"
    path.write_text("import torch\n" + Path(factory).read_text() + "\n".join(lines))
    plain = Source.parse(f"{path}:net", INPUT).load().network.state_dict().keys()
    for name in WRAPPERS:
        assert Source.parse(f"{path}:{name}", INPUT).load().network.state_dict().keys() == plain


def test_factory_that_reads_values_is_not_built_on_the_meta_device(tmp_path):
    model = write_nets(tmp_path, "import torch", "WIDTH = len([r.item() for r in torch.linspace(0, .1, 4)])")
    teacher = Source.parse(model, INPUT).on_meta()
    assert width(teacher.network) == 4
    assert not any(tensor.is_meta for tensor in teacher.network.state_dict().values())


@pytest.mark.parametrize("error", [TypeError, AssertionError, NotImplementedError, KeyError])
def test_timm_network_that_fails_on_the_meta_device_is_built_on_the_cpu(error, monkeypatch):
    build = timm.create_model

    def create_model(name, **given):
        if torch.get_default_device().type == "meta":
            raise error("no values on the meta device")
        return build(name, **given)

    monkeypatch.setattr(timm, "create_model", create_model)
    teacher = Source.parse("test_resnet").on_meta()
    assert not any(tensor.is_meta for tensor in teacher.network.state_dict().values())


FILE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()

def small(): ...
def wide(width, *, depth=3): ...
def deep(*layers, **options): ...
def _hidden(): ...
raise SystemExit("it runs")
"""


@pytest.mark.parametrize("spelled", ["sub/nets.py", "./nets.py", "nets.py", "{}/nets.py"])
def test_python_file_without_a_function_name_suggests_its_functions(spelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = spelled.format(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / text).write_text(FILE)
    with pytest.raises(ModelError, match="does not say which function builds the network") as caught:
        inspect(text)
    assert caught.value.hint == f"write {text}:factory; it defines Net, small, deep"
    (tmp_path / text).write_text("def (")
    with pytest.raises(ModelError, match="does not say which function builds the network") as caught:
        inspect(text)
    assert caught.value.hint == f"write {text}:factory"
    (tmp_path / text).unlink()
    with pytest.raises(ModelError, match=f"there is no file {text}"):
        inspect(text)


def test_hint_for_a_missing_path_does_not_mention_the_hub(tmp_path):
    with pytest.raises(ModelError, match="there is no folder") as caught:
        inspect(tmp_path / "none")
    assert "Hub" not in caught.value.hint
