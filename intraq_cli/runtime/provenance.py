"""The commit of the code that made a result: a version number alone does not distinguish commits."""

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains the package: a checkout, or ``site-packages``."""


def code_commit(root: Path = ROOT) -> str | None:
    """Return the commit of the package's code, followed by ``-dirty`` if the checkout has uncommitted changes.

    Return None if it is not known, as in a release, which its version number identifies.
    """
    if not (root / ".git").exists():  # the virtual environment may be inside another project's repository
        return _installed_commit()
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        made = subprocess.run(command, capture_output=True, text=True, env=env, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # git is missing, or the checkout is another user's
        return None
    return made.stdout.strip() or None


def _installed_commit() -> str | None:
    """Return the commit that pip recorded for an installation from a repository (PEP 610)."""
    try:
        noted = json.loads(metadata.distribution("intraq").read_text("direct_url.json") or "{}")
        commit = noted.get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) else None
