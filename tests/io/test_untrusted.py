import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from intraq_cli.errors import CheckpointError, IntraqError
from intraq_cli.io.untrusted import MAX_JSON, TensorInfo, parse_json, read_json, safe_path, tensor_header

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(TREES)
@settings(deadline=None, max_examples=50)
def test_valid_json_is_parsed_unchanged(tree):
    assert parse_json(json.dumps(tree)) == tree


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "'b' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a whole number of 5000 digits is too large"),
        ('{"a": "\\ud800"}', "surrogates"),
        ('{"a":' + "[" * 100_000, "recursion"),
        ("[1]", "is not a JSON object"),
        ("{", "cannot read"),
        ("\0", "cannot read"),
    ],
)
def test_ambiguous_or_malformed_json_is_refused_with_a_reason(tmp_path, text, says):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_json(path, CheckpointError)
    assert says in caught.value.message
    assert caught.value.message.isprintable()


def test_json_file_that_is_huge_not_text_a_pipe_or_missing_is_refused(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse: takes no disk space, but would fill the memory
    with pytest.raises(CheckpointError, match=f"larger than {MAX_JSON // 2**20} MiB"):
        read_json(path, CheckpointError)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match="not UTF-8"):
        read_json(path, CheckpointError)
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_json(path, CheckpointError)
    with pytest.raises(CheckpointError, match="no such file"):
        read_json(tmp_path / "nothing", CheckpointError)


def test_links_out_of_the_folder_are_refused_and_others_followed(tmp_path):
    folder, secret = tmp_path / "model", tmp_path / "secret.json"
    folder.mkdir()
    secret.write_text("{}")
    (folder / "config.json").symlink_to(secret)
    (folder / "circle").symlink_to("circle")
    for name in ("config.json", "circle"):
        with pytest.raises(CheckpointError, match="points outside its folder"):
            safe_path(folder, name, CheckpointError)
    (folder / "real.json").write_text("{}")
    (folder / "inside.json").symlink_to("real.json")
    assert safe_path(folder, "inside.json", CheckpointError).read_text() == "{}"
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be a link
    assert safe_path(tmp_path / "alias", "inside.json", CheckpointError).read_text() == "{}"


def test_links_within_the_hub_cache_are_followed_but_not_across_repositories(tmp_path):
    repository = tmp_path / "hub" / "models--org--name"
    snapshot, blobs, shared = repository / "snapshots/0123", repository / "blobs", tmp_path / "hub" / "blobs" / "ab"
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (shared / "ab12").write_text("{}")
    (blobs / "2").symlink_to("../../blobs/ab/ab12")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "run.json").symlink_to("../../blobs/2")
    for name in ("config.json", "run.json"):
        assert read_json(safe_path(snapshot, name, CheckpointError), CheckpointError) == {}
    other = tmp_path / "hub" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "1").write_text("{}")
    (snapshot / "stolen.json").symlink_to("../../../models--org--other/blobs/1")
    with pytest.raises(CheckpointError, match="points outside"):
        safe_path(snapshot, "stolen.json", CheckpointError)


def test_safetensors_header_is_read_and_damaged_files_are_refused(tmp_path):
    import torch

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.uint8)}, path)
    assert tensor_header(path, CheckpointError) == {"a": TensorInfo("F32", (2, 3)), "b": TensorInfo("U8", ())}
    whole = path.read_bytes()
    for damaged in (b"", whole[:7], whole[:-1], b"\xff" * 8 + whole[8:], (2**40).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is not a safetensors file, or is damaged"):
            tensor_header(path, CheckpointError)


@given(st.text())
def test_error_message_is_one_printable_line(text):
    error = IntraqError(text, text)
    assert error.message.isprintable()
    assert error.message == str(error)
    assert len(error.message) <= 1000
    assert error.hint == error.message


def test_error_distinguishes_a_folder_from_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"^.* is a folder$"):
        tensor_header(tmp_path, CheckpointError)
    with pytest.raises(CheckpointError, match=r"^there is no file "):
        tensor_header(tmp_path / "none", CheckpointError)
