import json
import shutil
import subprocess

import pytest

from intraq_cli.runtime import provenance
from intraq_cli.runtime.provenance import code_commit


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not on this machine")
def test_commit_of_a_checkout_is_marked_dirty_if_files_changed(tmp_path, monkeypatch):
    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-qm", "a")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert code_commit(tmp_path) == head
    (tmp_path / "a.py").write_text("2")
    assert code_commit(tmp_path) == f"{head}-dirty"
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(provenance, "_installed_commit", lambda: None)
    assert code_commit(tmp_path / ".venv") is None  # in the repository of another project


@pytest.mark.parametrize(
    ("noted", "commit"),
    [(None, None), ({"url": "file:///x"}, None), ({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "abc")],
)
def test_commit_of_an_installation_from_a_git_repository_is_found(tmp_path, monkeypatch, noted, commit):
    class Distribution:
        def read_text(self, name):
            return None if noted is None else json.dumps(noted)

    monkeypatch.setattr(provenance.metadata, "distribution", lambda name: Distribution())
    assert code_commit(tmp_path) == commit
