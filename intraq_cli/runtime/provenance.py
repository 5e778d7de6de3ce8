"""Which code made a result: a version number alone does not tell two commits apart."""

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""What holds the package: a checkout, or ``site-packages``."""


def code_commit(root: Path = ROOT) -> str | None:
    """Commit of the package's code, with ``-dirty`` behind it where a checkout has been changed since.

    None where it is not known: in a release, whose version number tells it.
    """
    if not (root / ".git").exists():  # the repository of another project may hold the virtual environment
        return _installed_commit()
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        made = subprocess.run(command, capture_output=True, text=True, env=env, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
        return None
    return made.stdout.strip() or None


def _installed_commit() -> str | None:
    """What pip has noted of an installation from a repository (PEP 610)."""
    try:
        noted = json.loads(metadata.distribution("intraq").read_text("direct_url.json") or "{}")
        commit = noted.get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) else None
