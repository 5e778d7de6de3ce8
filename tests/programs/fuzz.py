"""A mutation fuzzer for untrusted files: checkpoints, configs, model folders, image sets, recipes, image files.

``python -m tests.programs.fuzz --checkpoints 10000 --images 2000 --seed 0`` prints counts;
``test_fuzz.py`` runs a small budget.
A case passes if it succeeds or raises an IntraqError, within five seconds of CPU time (thirty if it inspects), and
touches nothing outside its folder.
"""

import argparse
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from intraq_cli import evaluate, inspect, load
from intraq_cli.checkpoint.config import checkpoint_config
from intraq_cli.checkpoint.write import checkpoint_tensors, write_weights
from intraq_cli.errors import IntraqError
from intraq_cli.evaluation.data import open_data
from intraq_cli.events import Event
from intraq_cli.graph.capture import capture
from intraq_cli.io.json_files import write_json
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Captured, Teacher, capture_teacher
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.recipe import Quantization, Recipe
from intraq_cli.synthesis.image_set import ImageSet, load_images, save_images
from intraq_cli.synthesis.tuning_images import TuningImages
from intraq_cli.zoo import load_recipe, zoo_root

LIMIT = 5
"""Seconds of CPU time for one case, however busy the machine is."""
CAPTURE_LIMIT = 30
"""The limit of a case that inspects: a config may name any architecture, and capturing takes some 10 ms a node."""
PATIENCE = 6
"""The limit of elapsed time, as a multiple of that of CPU time: a case that waits uses no CPU time."""
MEMORY = 1024
"""MiB above the baseline."""
SPEC = InputSpec((1, 8, 8), (0.5,), (0.25,), "bilinear", 1.0)
RGB = InputSpec((3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 0.875)

NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 9, 255, 2**31, 2**63, 10**9, 10**30, 0.5, -0.0, 1e-300, 1e308, float("nan"),
    float("inf"), "", " ", "NaN", "0", "x" * 10_000, "../../../etc/passwd", "/etc/passwd", "hf-hub:a/b", "local-dir:.",
    "a/b", "nets.py:net", "\ud800", "\x1b[2J\r\n", "[/]", "\0", "fc", "conv1", "layer1.0", "weight", "__class__",
    "resnet18", "test_resnet", "cifar_resnet", "torchvision:vgg16", "torchvision:resnet18", "pytorchcv:resnet10",
    "vit_giant_patch14_dinov2", "efficientnet_b0", "regnety_320", "swin_tiny_patch4_window7_224", "resnetv2_50x3_bit",
    "levit_128s", "tiny_vit_5m_224", "densenet121", "hf-hub:timm/resnet18.a1_in1k", "nearest", "squash", "activations",
    [], {}, [[]], [10**9] * 3, [1] * 2000, [0, 0, 0], [3, 2048, 2048], [1, 8, 8], [-1, 8, 8], ["a"], [None],
    {"a": 1}, {"fc": 4}, [[[[[[1]]]]]],
]  # fmt: skip
ARGUMENTS: dict[str, list[Any]] = {
    "blocks": [0, -1, 2, 100, 10**4, 16384, 10**9, 1.5, "3"],
    "in_chans": [0, -3, 2, 16384, 10**9, "1"],
    "num_classes": [0, -1, 1, 2, 10**6, 10**9],
    "layers": [[1, 1, 1, 1], [16384] * 4, [10**9], "x", []],
    "depths": [[16384] * 4, 3],
    "img_size": [8, 0, 16384, 10**6, [224, 224], [16384, 16384]],
    "depth_multiplier": [0, 1e-9, 32, 1000.0, -1],
    "channel_multiplier": [32.0, 10**6, -2.0],
    "stem_width": [0, 16384, -1],
    "cardinality": [0, 3, -1],
    "base_width": [16384, 0],
    "block": ["BasicBlock", 3],
    "norm_layer": ["layernorm", "os.system", 1],
    "act_layer": ["swish", "nothing", ""],
    "global_pool": ["max", "", "nothing", 0],
    "output_stride": [3, 8, -1],
    "drop_rate": [2, -1],
    "window_size": [32, 1024, 0],
    "embed_dim": [16384, 0, 7],
    "block_args": [[["ds_r1_k3_s1_e1_c16_se0.25"]], "x"],
    "transform_input": [True],
    "aux_logits": [True, False],
    "pretrained": [True],
    "pretrained_cfg": [{"file": "x"}],
    "checkpoint_path": ["/tmp/weights.pth"],
    "cache_dir": ["/tmp/cache"],
    "features_only": [True],
    "scriptable": [True],
    "device": ["cuda", "meta"],
    "dtype": ["float16"],
    "self": [1],
    "weights": ["DEFAULT"],
    "init_weights": [True, False],
    "": [1],
    "cfg": ["x"],
}
TOML_VALUES = [
    "1e400", "-1", "nan", "inf", "true", "'x'", "[" * 3000, "{}", "[1, 2]", "0x" + "f" * 5000, "9" * 5000, "1.5", "0",
    "1979-05-27T07:32:00Z", "25:61:00", '"\\ud800"', "[[1]]", "10000000000", "''", "'é'",
]  # fmt: skip


# --- what is forbidden while a case runs ---


class HangError(BaseException):
    """The case took longer than the limit."""


@dataclass
class Watch:
    """What the audit hook has seen a case do that it must not."""

    folder: str | None = None
    """The case's own folder; None: nothing is watched."""
    seen: list[str] = field(default_factory=list)


WATCH = Watch()
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "shutil.rmtree", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"}  # fmt: skip
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pickle.find_class",
             "socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen"}  # fmt: skip


def _audit(event: str, args: tuple) -> None:
    if WATCH.folder is None:
        return
    if event == "ctypes.dlopen" and args == (None,):
        return  # this process itself, to set the C library's allocator
    if event in FORBIDDEN:
        WATCH.seen.append(f"{event} {args!r:.200}")
    elif event == "open" or event in CHANGES:
        writes = event != "open" or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        path = args[0] if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if writes and path and not os.path.abspath(os.fsdecode(path)).startswith((WATCH.folder, os.devnull)):
            WATCH.seen.append(f"{event} {os.fsdecode(path)}")


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Within the block, record changes outside ``folder``, started programs and network access."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    WATCH.folder, WATCH.seen = str(folder), []
    try:
        yield WATCH.seen
    finally:
        WATCH.folder = None


_hooked: list[bool] = []


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Within the block, raise ``HangError`` after ``seconds`` of CPU time; a nested block has its own limit."""

    def stop(number: int, frame: Any) -> None:
        raise HangError

    timers = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
    before = {number: signal.signal(number, stop) for number in timers.values()}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
    try:
        yield
    finally:
        for timer, number in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


# --- seeds: small and valid ---


def _spread(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.1 + 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def write_checkpoint(folder: Path, architecture: str, args: dict[str, Any], spec: InputSpec, placement: Any) -> None:
    """A checkpoint as ``quantize`` writes it, with arbitrary activation grids."""
    network = _spread(build_architecture(architecture, 10, args))
    labels = [str(k) for k in range(10)]
    teacher = Teacher(network, spec, "resnet20_digits", "tiny", architecture, args, {"license": "mit"}, labels)
    graph = capture(network, torch.randn(2, *spec.input_size, generator=torch.Generator().manual_seed(0)))
    plan = plan_quantization(graph, 4, 4, placement)
    student = QuantizedNetwork(graph, plan)
    config = Quantization(weight_rounding="nearest", weight_range="minmax")
    for name, weight in student.weights.items():
        student.set_weight(name, WeightQuantizer(weight(), 4, config))
    for site in student.activation_quantizers.values():
        site.set_grid(torch.tensor(0.1), torch.tensor(3.0))
    folder.mkdir(parents=True)
    write_weights(folder, checkpoint_tensors(student, student.freeze()))
    write_json(folder / "config.json", checkpoint_config(teacher, Captured(graph, 10), plan, 4, 4))
    write_json(folder / "run.json", {"teacher": {"source": "resnet20_digits", "sha256": None, "weights": None}})


def write_float(folder: Path, architecture: str, args: dict[str, Any], spec: InputSpec) -> None:
    """Write a float model's folder as timm does."""
    network = _spread(build_architecture(architecture, 10, args))
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors", {"format": "pt"})
    cfg = {**vars(spec), "num_classes": 10, "classifier": "fc", "first_conv": "conv1", "tag": "x", "license": "mit"}
    cfg["hf_hub_id"] = "org/tiny"
    config = {"architecture": architecture, "num_classes": 10, "model_args": args, "pretrained_cfg": cfg}
    write_json(folder / "config.json", config)


def write_seeds(root: Path) -> None:
    """Write the files that are mutated."""
    write_checkpoint(root / "own", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC, "inputs")
    write_checkpoint(root / "own-activations", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC, "activations")
    write_checkpoint(root / "timm", "test_resnet", {"in_chans": 3}, RGB, "inputs")
    write_checkpoint(root / "computed", "test_nfnet", {}, RGB, "inputs")  # standardises its weights in forward
    write_float(root / "float-own", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC)
    write_float(root / "float-timm", "test_resnet", {"in_chans": 3}, RGB)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=generator).half()
    made = TuningImages(images, torch.arange(6), {"bns": 0.1, "total": 0.2}, 1.0, 0.5)
    (root / "set").mkdir()
    save_images(root / "set" / "images.safetensors", ImageSet(made, {"model": "x", "sha256": "0"}, SPEC))
    (root / "weights").mkdir()
    torch.save(build_architecture("test_resnet", 10, {}).state_dict(), root / "weights" / "weights.pth")
    (root / "recipe").mkdir()
    shutil.copy(zoo_root() / "recipes" / "paper-cifar10.toml", root / "recipe" / "recipe.toml")
    _write_images(root / "images")


def _write_images(folder: Path) -> None:
    folder.mkdir()
    noise = Image.effect_noise((24, 16), 90)
    colour = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    for suffix in ("jpg", "png", "bmp", "webp", "ppm", "tif"):
        colour.save(folder / f"rgb.{suffix}")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.save(folder / "progressive.jpg", progressive=True)
    colour.quantize(16).save(folder / "palette.png")
    colour.quantize(16).save(folder / "gif.png", format="GIF", save_all=True, append_images=[colour.quantize(16)])
    colour.save(folder / "lzw.tif", compression="tiff_lzw")
    colour.save(folder / "jpeg.tif", compression="jpeg")
    colour.convert("LA").save(folder / "alpha.png")
    noise.save(folder / "grey.pgm")
    Image.fromarray((torch.rand(16, 24) * 65535).int().numpy().astype("uint16")).save(folder / "deep.png")
    noise.convert("1").save(folder / "bits.tif", compression="group4")


# --- mutations ---


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    """The data with some bytes changed, removed, overwritten or repeated, or truncated."""
    changed = bytearray(data)
    match rng.randrange(6):
        case 0:
            return bytes(changed[: rng.randrange(len(changed) + 1)])
        case 1:
            start = rng.randrange(len(changed))
            return bytes(changed + changed[start : start + 500])
        case 2:
            start = rng.randrange(len(changed))
            changed[start : start + rng.randrange(64)] = b""
        case 3:
            start = rng.randrange(len(changed))
            changed[start : start + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, rng.randbytes(8)])
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        if changed:
            # the beginning is where the headers are
            span = rng.choice([16, 64, 512, len(changed)])
            changed[rng.randrange(min(span, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in pairs for place in [(tree, key), *_places(value)]]


def change_tree(tree: Any, rng: random.Random) -> Any:
    """A JSON tree with one to three nodes replaced, removed, moved, nested or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = _places(tree)
        if not places:
            return copy.deepcopy(rng.choice(NASTY))
        owner, key = rng.choice(places)
        match rng.randrange(9):
            case 0:
                del owner[key]
            case 1:
                other_owner, other_key = rng.choice(places)
                owner[key] = copy.deepcopy(other_owner[other_key])
            case 2:
                for _ in range(rng.choice([1, 3, 100])):
                    owner[key] = [owner[key]] if rng.random() < 0.5 else {"a": owner[key]}
            case 3 if isinstance(owner, dict):
                owner[rng.choice(["", "fc", "x", "\ud800", "a" * 300, "stages.0.0", "num_classes"])] = owner.pop(key)
            case 4 if isinstance(tree, dict) and isinstance(tree.get("model_args"), dict):
                name = rng.choice(list(ARGUMENTS))
                tree["model_args"][name] = copy.deepcopy(rng.choice(ARGUMENTS[name]))
            case 5 if isinstance(tree, dict) and "architecture" in tree:
                tree["architecture"] = rng.choice([value for value in NASTY if isinstance(value, str)])
            case _:
                owner[key] = copy.deepcopy(rng.choice(NASTY))
    return tree


def change_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON text, mostly changed as a tree, otherwise as text."""
    choice = rng.random()
    if choice < 0.1:
        return flip_bytes(data, rng)
    if choice < 0.13:
        deep = 10 ** rng.randrange(1, 6)
        return data.replace(b":", b":" + rng.choice([b"[", b'{"a":']) * deep, 1)
    if choice < 0.16:
        return data.replace(b"{", b'{"architecture": "resnet18", "num_classes": 7, ', 1)
    if choice < 0.17:
        return data.rstrip()[:-1] + b" " * 10**7 + b"}"
    return json.dumps(change_tree(json.loads(data), rng)).encode()


def change_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with an edited header, or edited bytes."""
    if rng.random() < 0.4:
        return flip_bytes(data, rng)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    choice = rng.random()
    if choice < 0.5:
        header = change_tree(header, rng)
    elif choice < 0.8:
        # other values in a tensor: NaN, infinity, negative, huge
        names = [name for name in header if name != "__metadata__" and header[name]["data_offsets"][1]]
        start, end = header[rng.choice(names)]["data_offsets"]
        value = rng.choice(
            [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\0\0\0\0", b"\1\0\0\0"]
        )
        body = body[:start] + (value * ((end - start) // 4 + 1))[: end - start] + body[end:]
    else:
        name = rng.choice(list(header))
        header[rng.choice(["fc.weight", "extra", "conv1.weight_scale", ""])] = header.pop(name)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def change_toml(data: bytes, rng: random.Random) -> bytes:
    """A recipe with edited bytes, values or keys."""
    if rng.random() < 0.3:
        return flip_bytes(data, rng)
    lines = data.decode("utf-8", "replace").splitlines()
    for _ in range(rng.choice([1, 1, 2])):
        k = rng.randrange(len(lines))
        key, equals, _ = lines[k].partition("=")
        match rng.randrange(5):
            case 0:
                lines[k] = rng.choice(
                    ["[tuning]", "[[tuning]]", "[x.y]", "[synthesis.steps]", "name = 3", "", "x" * 9999]
                )
            case 1:
                lines.insert(k, lines[rng.randrange(len(lines))])
            case _ if equals:
                lines[k] = f"{key}= {rng.choice(TOML_VALUES)}"
    return "\n".join(lines).encode("utf-8", "replace")


# --- cases ---


def _use_checkpoint(folder: Path) -> None:
    network = load(folder, device="cpu")
    assert isinstance(network, QuantizedNetwork)


def _use_evaluate(folder: Path) -> None:
    evaluate(str(folder), data="digits", limit=4, device="cpu")


def _use_float(folder: Path) -> None:
    capture_teacher(Source.parse(str(folder)).load())


def _use_inspect(folder: Path) -> None:
    with time_limit(CAPTURE_LIMIT):
        inspect(str(folder))


def _use_set(folder: Path) -> None:
    load_images(folder / "images.safetensors", SPEC, 10)


def _use_recipe(folder: Path) -> None:
    assert isinstance(load_recipe(str(folder / "recipe.toml")), Recipe)


def _use_weights(folder: Path) -> None:
    Source.parse("test_resnet", weights=folder / "weights.pth").load()


def use_seeds(seeds: Path) -> None:
    """Use the seeds unmutated: they must be valid, and modules that are imported on first use are imported now."""
    for name, use, _ in KINDS:
        use(seeds / name)


CHANGES_OF: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": change_json,
    ".safetensors": change_safetensors,
    ".toml": change_toml,
    ".pth": flip_bytes,
}
KINDS: list[tuple[str, Callable[[Path], None], int]] = [
    ("own", _use_checkpoint, 20),
    ("own", _use_evaluate, 12),
    ("own-activations", _use_checkpoint, 12),
    ("timm", _use_checkpoint, 14),
    ("computed", _use_checkpoint, 8),
    ("float-own", _use_float, 8),
    ("float-timm", _use_inspect, 4),
    ("float-timm", _use_float, 10),
    ("set", _use_set, 9),
    ("recipe", _use_recipe, 12),
    ("weights", _use_weights, 3),
]


def run_checkpoint_case(seeds: Path, case: Path, rng: random.Random) -> Callable[[], str]:
    """Make a mutated copy of one of the seeds; returns a function that uses it."""
    name, use, _ = rng.choices(KINDS, [weight for *_, weight in KINDS])[0]
    shutil.copytree(seeds / name, case)
    files = sorted(case.iterdir())
    weights = [4 if file.name == "config.json" else 1 if file.name == "run.json" else 3 for file in files]
    for file in dict.fromkeys(rng.choices(files, weights, k=rng.choice([1, 1, 1, 2]))):
        if rng.random() < 0.02:
            _misplace(file, rng)
        else:
            file.write_bytes(CHANGES_OF[file.suffix](file.read_bytes(), rng))

    def accepted() -> str:
        use(case)
        return "accepted"

    return accepted


def _misplace(file: Path, rng: random.Random) -> None:
    """Replace the file by a folder, a FIFO or a symbolic link."""
    content = file.read_bytes()
    file.unlink()
    match rng.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to("/etc/passwd")
        case 3:
            file.symlink_to(file.name)
        case 4:
            (file.parent / "moved").write_bytes(content)
            file.symlink_to("moved")


def run_image_case(seeds: Path, case: Path, rng: random.Random) -> Callable[[], str]:
    """Make class folders with one mutated and one valid image; returns a function that reads them."""
    (case / "0").mkdir(parents=True)
    (case / "1").mkdir()
    files = sorted((seeds / "images").iterdir())
    file = rng.choice(files)
    shutil.copy(seeds / "images" / "rgb.png", case / "1" / "sound.png")
    target = case / "0" / file.name
    shutil.copy(file, target)
    if rng.random() < 0.02:
        _misplace(target, rng)
    else:
        target.write_bytes(flip_bytes(target.read_bytes(), rng))
    spec = rng.choice([SPEC, RGB])

    def use() -> str:
        images = open_data(str(case), spec, 2, None)
        warned: list[Event] = []
        measured = sum(len(y) for _, y, _ in images.batches(4, warned.append))
        assert measured + len(warned) == 2
        return "left out" if warned else "accepted"

    return use


# --- the run ---


@dataclass
class Report:
    """The outcomes of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Tracebacks, hangs and forbidden actions, each with its case's number."""
    peak: float = 0.0
    """MiB above the baseline."""
    slowest: float = 0.0

    def line(self, name: str) -> str:
        """The counts as a line of text."""
        counts = ", ".join(f"{key} {count}" for key, count in sorted(self.outcomes.items()))
        return f"{name}: {self.outcomes.total()} cases: {counts}; +{self.peak:.0f} MiB, slowest {self.slowest:.1f} s"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def fuzz(
    make: Callable[[Path, Path, random.Random], Callable[[], str]], count: int, seed: int, seeds: Path, first: int = 0
) -> Report:
    """Run ``count`` cases of one kind; case ``k`` depends on ``seed`` and ``k`` alone."""
    found = Report()
    baseline = _peak()
    for k in range(first, first + count):
        case = seeds.parent / "case"
        use = make(seeds, case, random.Random(f"{seed} {k}"))
        started = time.monotonic()
        outcome = _run(use, case, found, k)
        found.slowest = max(found.slowest, time.monotonic() - started)
        found.outcomes[outcome] += 1
        if _peak() - baseline > MEMORY and found.peak <= MEMORY:
            found.failures.append(f"case {k}: more than {MEMORY} MiB")
        found.peak = _peak() - baseline
        shutil.rmtree(case)
    return found


def _run(use: Callable[[], str], case: Path, found: Report, k: int) -> str:
    with warnings.catch_warnings(), watched(case) as seen:
        warnings.simplefilter("ignore")
        try:
            with time_limit(LIMIT):
                outcome = use()
        except IntraqError as error:
            outcome = f"refused ({error.code})"
            if "\n" in error.message + error.hint or not error.message.isprintable():
                outcome = "not one line"
                found.failures.append(f"case {k}: {error.message!r}")
        except HangError:
            outcome = "hang"
            found.failures.append(f"case {k}: longer than {LIMIT} s\n{traceback.format_exc()}")
        except Exception:
            outcome = "traceback"
            found.failures.append(f"case {k}: {traceback.format_exc()}")
        if seen:
            found.outcomes["outside"] += 1
            found.failures.append(f"case {k}: outside its folder: {seen}")
    return outcome


def main() -> None:
    """Run as many cases as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        seeds = Path(scratch) / "seeds"
        seeds.mkdir()
        write_seeds(seeds)
        use_seeds(seeds)
        for name, make, count in (
            ("checkpoints", run_checkpoint_case, args.checkpoints),
            ("images", run_image_case, args.images),
        ):
            found = fuzz(make, count, args.seed, seeds, args.first)
            print(found.line(name), flush=True)
            for failure in found.failures[:20]:
                print(failure, file=sys.stderr)
            failed = failed or bool(found.failures)
    raise SystemExit(failed)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
