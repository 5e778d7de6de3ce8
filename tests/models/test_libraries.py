"""Networks from torchvision and pytorchcv, without a download."""

import os
import pickle
import urllib.error

import pytest
import torch

from intraq_cli.errors import ModelError
from intraq_cli.models.architectures import build_architecture
from tests.models.teachers import load_teacher


def test_torchvision_download_messages_go_to_stderr(monkeypatch, capsys):
    from torchvision import models

    def get_model(name, weights):
        print("Downloading:", name)
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr(models, "get_model", get_model)
    with pytest.raises(ModelError, match="cannot download torchvision:resnet18: Name or service not known"):
        load_teacher("torchvision:resnet18")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Downloading: resnet18\n")


def test_missing_pytorchcv_gives_an_install_hint():
    try:
        import pytorchcv  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="pytorchcv is not installed") as caught:
            load_teacher("pytorchcv:mobilenet_w1")
        assert "pip install" in caught.value.hint
    else:
        pytest.skip("pytorchcv is installed")


def test_torchvision_model_uses_the_preprocessing_of_its_presets(monkeypatch):
    """The real builder and presets, without the download."""
    from torchvision import models

    build = models.get_model
    monkeypatch.setattr(models, "get_model", lambda name, weights, **args: build(name, weights=None, **args))
    teacher = load_teacher("torchvision:mobilenet_v3_small")
    assert (teacher.spec.input_size, teacher.spec.crop_pct) == ((3, 224, 224), 224 / 256)
    assert teacher.spec.mean == (0.485, 0.456, 0.406)
    rebuilt = build_architecture(teacher.architecture, 1000, teacher.model_args)
    rebuilt.load_state_dict(teacher.network.state_dict())


def test_torchvision_download_is_unpickled_without_running_code(monkeypatch, tmp_path):
    from torch import hub
    from torchvision import models

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    name = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "checkpoints").mkdir()
    torch.save({"fc.weight": Evil()}, tmp_path / "checkpoints" / name)
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(pickle.UnpicklingError):
        load_teacher("torchvision:resnet18")
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
