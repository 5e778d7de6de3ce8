import errno
import os
import shutil
from pathlib import Path

import pytest

from intraq_cli.errors import OutputError
from intraq_cli.io import atomic
from intraq_cli.io.atomic import atomic_file, atomic_folder, check_output


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    return folder


def ours(folder):
    """Whether a folder counts as a checkpoint in these tests."""
    return (folder / "config.json").is_file()


def make(whole, path, force, meanwhile):
    """Write an output; ``meanwhile`` is called when all is written but nothing has been moved into place."""
    with atomic_folder(path, force, ours) if whole is atomic_folder else atomic_file(path, force) as made:
        if whole is atomic_folder:
            (made / "config.json").write_text("new")
        else:
            made.write_text("new")
        meanwhile()


def fail(error):
    def meanwhile():
        raise error

    return meanwhile


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_folder_is_replaced_only_after_everything_is_written(old, tmp_path):
    seen = []
    make(atomic_folder, old, True, lambda: seen.append(contents(old)))
    assert seen == [{"config.json": "old"}]
    assert contents(tmp_path) == {"out/config.json": "new"}


def test_nested_folders_are_accessible_and_their_files_not_executable(tmp_path):
    with atomic_folder(tmp_path / "out", False, ours) as made:
        (made / "deep/er").mkdir(parents=True)
        (made / "deep/er/a").write_text("new")
    assert contents(tmp_path) == {"out/deep/er/a": "new"}
    assert (tmp_path / "out/deep/er").stat().st_mode & 0o111
    assert not (tmp_path / "out/deep/er/a").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_interrupted_write_leaves_the_previous_output_unchanged(old, tmp_path, whole, error, raised):
    with pytest.raises(raised) as caught:
        make(whole, old if whole is atomic_folder else old / "config.json", True, fail(error))
    assert contents(tmp_path) == {"out/config.json": "old"}
    if raised is OutputError:
        assert "No space left on device" in caught.value.message


def failing_renames(monkeypatch, failing):
    """Renames whose numbers are in ``failing`` fail; returns what was renamed."""
    rename, done = Path.rename, []

    def renamed(self, target):
        done.append(self.name)
        if len(done) in failing:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    return done


def test_previous_folder_is_restored_if_it_cannot_be_replaced(old, tmp_path, monkeypatch):
    done = failing_renames(monkeypatch, {2})
    with pytest.raises(OutputError, match="Input/output error"):
        make(atomic_folder, old, True, lambda: None)
    assert done == ["out", "new", "old"]
    assert contents(tmp_path) == {"out/config.json": "old"}


def test_previous_folder_that_cannot_be_restored_is_kept_and_named(old, tmp_path, monkeypatch):
    failing_renames(monkeypatch, {2, 3})
    with pytest.raises(OutputError) as caught:
        make(atomic_folder, old, True, lambda: None)
    kept = Path(caught.value.hint.removeprefix("the previous content is now in "))
    assert contents(kept) == {"config.json": "old"}


@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_output_is_synced_to_disk_before_it_is_moved_into_place(old, monkeypatch, whole):
    """A power cut after the rename must not leave empty files."""
    order, fsync, check = [], os.fsync, atomic.check_output

    def synced(opened):
        order.append(os.fstat(opened).st_ino)
        fsync(opened)

    def checked(*args, **options):  # the last thing before the renames
        order.append("rename")
        check(*args, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(atomic, "check_output", checked)
    path = old if whole is atomic_folder else old / "config.json"
    make(whole, path, True, lambda: None)
    made = [old / "config.json", old] if whole is atomic_folder else [path]
    assert order == [*(file.stat().st_ino for file in made), "rename", path.parent.stat().st_ino]


@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_failed_sync_leaves_the_previous_output_unchanged(old, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        make(whole, old if whole is atomic_folder else old / "config.json", True, lambda: None)
    assert contents(tmp_path) == {"out/config.json": "old"}


@pytest.mark.parametrize("whole", [atomic_folder, atomic_file])
def test_output_that_others_created_in_the_meantime_is_not_replaced(tmp_path, whole):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="already exists"):
        make(whole, path, False, lambda: path.write_text("theirs"))
    assert contents(tmp_path) == {"out": "theirs"}


def test_parent_folder_that_vanishes_is_an_output_error(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(OutputError, match="No such file"):
        make(atomic_folder, home / "out", False, lambda: shutil.rmtree(home))
    assert not home.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_output_in_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "out", False, ours)


@pytest.mark.parametrize(
    ("path", "file", "says"),
    [
        (".", False, "is not a name for an output"),
        ("..", False, "is not a name for an output"),
        ("out", True, "is a folder"),
        ("out/config.json", False, "is a file"),
    ],
)
def test_output_that_could_not_be_replaced_is_refused_up_front(old, tmp_path, monkeypatch, path, file, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=says):
        check_output(Path(path), True, None if file else ours)
    check_output(Path("out"), True, ours)
    check_output(Path("out/config.json"), True)


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["config.json", "model.safetensors"], True),
        ([], True),
        (["chapter.tex"], False),
    ],
)
def test_force_replaces_outputs_and_empty_folders_only(tmp_path, files, taken):
    folder = tmp_path / "thesis"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    if taken:
        check_output(folder, True, ours)
    else:
        with pytest.raises(
            OutputError, match="thesis contains files that this command did not make, so --force does not replace it"
        ):
            check_output(folder, True, ours)


def test_output_name_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(OutputError, match="the name is not UTF-8"):
        check_output(tmp_path / os.fsdecode(b"caf\xe9"), force=False)


@pytest.mark.parametrize("there", [True, False])
def test_symbolic_link_as_output_is_refused(old, tmp_path, there):
    link = tmp_path / "link"
    link.symlink_to(old if there else tmp_path / "nowhere")
    with pytest.raises(OutputError, match="link is a link"):
        check_output(link, True, ours)
    assert contents(tmp_path)["out/config.json"] == "old"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a" * 245, "the name of output a+ is too long: 245 bytes"),
        ("a/" * 2000 + "b", "the path of output b is too long"),
        ("a\0b", "null character"),
    ],
)
def test_output_name_that_no_file_system_accepts_is_refused(tmp_path, name, says):
    for is_output in (None, ours):
        with pytest.raises(OutputError, match=says):
            check_output(tmp_path / name, True, is_output)


def test_longest_accepted_output_name_can_be_written(tmp_path):
    path = tmp_path / ("a" * atomic.LONGEST_NAME)
    check_output(path, False, ours)
    make(atomic_folder, path, False, lambda: None)
    path.with_name(f"{path.name}.unfinished").mkdir()
