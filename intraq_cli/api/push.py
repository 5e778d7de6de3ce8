"""``push``: upload a checkpoint folder to the Hugging Face Hub."""

from dataclasses import replace
from pathlib import Path

from intraq_cli import __version__
from intraq_cli.api.arguments import verb
from intraq_cli.errors import UsageError
from intraq_cli.events import Report, silent
from intraq_cli.publish.repository import FILES, RESULTS, checkpoint_files, left_out, timm_files
from intraq_cli.publish.upload import check_repository_name, check_revision, repository_url, upload
from intraq_cli.results import PushedFile, PushResult


@verb
def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    token: str | None = None,
    timm: bool = False,
    dry_run: bool = False,
    report: Report = silent,
) -> PushResult:
    """Upload a checkpoint folder with its model card to the Hugging Face Hub, in one commit.

    Args:
        folder: a folder that ``quantize`` wrote.
        repo_id: ``ORG/NAME``; created if it does not exist.
        private: make a newly created repository private.
        revision: the branch; default ``main``.
        create_pr: open a pull request instead.
        message: commit message.
        token: a token with write access; default: HF_TOKEN, or the one of ``hf auth login``.
        timm: upload a plain timm repository instead, with dequantized weights and float activations.
        dry_run: check everything, and upload nothing.
        report: function that receives an event for every step.

    Raises:
        IntraqError: on any error that the caller can fix.
    """
    check_repository_name(repo_id)
    check_revision(revision)
    if message is not None and not message.strip():
        raise UsageError("the commit message is empty", "leave out --message for the default one")
    folder = Path(folder)
    branch = None if create_pr else revision
    files = timm_files(folder, repo_id) if timm else checkpoint_files(folder, repo_id, branch, report)
    result = PushResult(
        repo_id=repo_id,
        url=repository_url(repo_id),
        commit=None,
        files=tuple(PushedFile(path, len(content)) for path, content in files.items()),
        card=files["README.md"].decode(),
        left_out=tuple(left_out(folder)),
        dry_run=dry_run,
    )
    if dry_run:
        return result
    sent = upload(
        repo_id,
        files,
        obsolete=frozenset((*FILES, RESULTS)) - frozenset(files),
        private=private,
        revision=revision,
        create_pr=create_pr,
        message=message or f"Upload {folder.resolve().name} with intraq {__version__}",
        token=token,
        report=report,
    )
    return replace(result, commit=sent.oid, pull_request=sent.pr_url)
