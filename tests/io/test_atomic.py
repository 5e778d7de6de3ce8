import errno
import os
import shutil
from pathlib import Path

import pytest

from intraq_cli.errors import OutputError
from intraq_cli.io.atomic import atomic_file, atomic_folder, check_output


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("old")
    return folder


def make(whole, path, force, meanwhile):
    """Write an output anew; ``meanwhile`` is called when all is written, and nothing is in its place."""
    with whole(path, force) as made:
        if whole is atomic_folder:
            (made / "a").write_text("new")
        else:
            made.write_text("new")
        meanwhile()


def fail(error):
    def meanwhile():
        raise error

    return meanwhile


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_its_place_at_the_end(old, tmp_path):
    seen = []
    make(atomic_folder, old, True, lambda: seen.append(contents(old)))
    assert seen == [{"a": "old"}]
    assert contents(tmp_path) == {"out/a": "new"}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_what_breaks_off_leaves_what_was_there(old, tmp_path, whole, error, raised):
    with pytest.raises(raised) as caught:
        make(whole, old if whole is atomic_folder else old / "a", True, fail(error))
    assert contents(tmp_path) == {"out/a": "old"}
    if raised is OutputError:
        assert "No space left on device" in caught.value.message


@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_what_somebody_else_has_put_there_meanwhile_is_not_replaced(tmp_path, whole):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"):
        make(whole, path, False, lambda: path.write_text("theirs"))
    assert contents(tmp_path) == {"out": "theirs"}


def test_a_folder_that_vanishes_is_one_line(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(OutputError, match="No such file"):
        make(atomic_folder, home / "out", False, lambda: shutil.rmtree(home))
    assert not home.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "out", force=False)


@pytest.mark.parametrize(
    ("path", "file", "says"),
    [(".", False, "no name"), ("..", False, "no name"), ("out", True, "is a folder"), ("out/a", False, "is a file")],
)
def test_what_could_not_be_replaced_at_the_end_is_refused_at_once(old, tmp_path, monkeypatch, path, file, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=says):
        check_output(Path(path), True, file)
    check_output(Path("out"), True)
    check_output(Path("out/a"), True, file=True)
