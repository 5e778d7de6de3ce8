"""The fuzzer's mutations of bytes, JSON, safetensors and TOML."""

import copy
import json
import random
from typing import Any

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
