"""Upload files to a repository on the Hugging Face Hub, in one commit, with the Hub's own client."""

import hashlib
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from intraq_cli import __version__
from intraq_cli.errors import HubError, IntraqError, UsageError
from intraq_cli.events import Report, StageDone, StageStarted, StepDone, Warned
from intraq_cli.models.hub import LOGIN, explain_failure, is_http_error, request_limits, request_timeout, root_error

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

T = TypeVar("T")

TRIES = 3
"""The client itself only retries requests for files, not those that look up or change a repository."""


def repository_url(repo_id: str) -> str:
    """Return the URL of the repository's web page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def check_revision(revision: str | None) -> None:
    """Check that git accepts ``revision`` as the name of a branch.

    Raises:
        UsageError: it is not a valid name.
    """
    fits = revision is None or re.fullmatch(r"[\w][\w./-]*(?<![./])", revision, re.ASCII)
    if not fits or ".." in str(revision):
        raise UsageError(f"{revision!r} is not a branch name", "use letters, digits, and ._-/ between them")


def check_repository_name(repo_id: str) -> None:
    """Check that the Hub accepts ``repo_id``.

    Raises:
        UsageError: it is not ``ORG/NAME``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(f"{repo_id!r} is not a Hub repository name", "write ORG/NAME, e.g. my-name/resnet18-w4a4")


def upload(
    repo_id: str,
    files: dict[str, bytes],
    *,
    obsolete: frozenset[str] = frozenset(),
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload",
    token: str | None = None,
    report: Report,
) -> "CommitInfo":
    """Upload files in one commit, and verify what arrived.

    Args:
        repo_id: repository, created if it does not exist.
        files: content by path in the repository.
        obsolete: paths that the same commit removes if they exist.
        private: make a newly created repository private; an existing public one is refused.
        revision: the branch, which must exist.
        create_pr: open a pull request instead.
        message: commit message.
        token: default: the token that the client finds in HF_TOKEN or its login cache.
        report: function that receives an event for every step.

    Raises:
        HubError: the upload failed; the message says if a new repository was created and remains.
    """
    started = time.perf_counter()
    hub = _Repository(repo_id, _token(token), report)
    report(StageStarted("upload", 3, f"{len(files)} files, {sum(map(len, files.values())):,} bytes, to {repo_id}"))
    with _client(report):
        head = hub.find_or_create(revision, private)
        with hub.told_when_left(created=head is None):
            there = {file.rfilename for file in (head.siblings if head else None) or ()}
            # with a parent commit, so that nothing is lost that somebody else commits in the meantime
            commit = hub.commit(
                files, sorted(obsolete & there), message, revision, create_pr, head.sha if head else None
            )
        report(StepDone("upload", 2, 0, f"committed {commit.oid[:12]}"))
        hub.compare(files, commit.oid)
        report(StepDone("upload", 3, 0, "compared with the local files"))
    report(StageDone("upload", time.perf_counter() - started))
    return commit


class _Repository:
    """A repository accessed with a token; every failed request raises a :class:`HubError`."""

    def __init__(self, repo_id: str, token: str, report: Report) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.token, self.report = repo_id, token, report
        self.api = HfApi(token=token, library_name="intraq", library_version=__version__)

    def find_or_create(self, revision: str | None, private: bool) -> "ModelInfo | None":
        """Return the information about an existing repository, or create it and return None."""
        head = self.ask(lambda: self._look(revision))
        if head is None and revision not in (None, "main"):
            missing = f"{self.repo_id} does not exist, so it has no branch {revision}"
            raise HubError(missing, "push without --revision first", "hub-missing")
        if head is None:  # None, not False: private may be the default of an organisation
            self.ask(lambda: self.api.create_repo(self.repo_id, private=private or None))
        elif private and head.private is False:
            hint = "make it private in its settings on the Hub, or push without --private"
            raise HubError(f"{self.repo_id} already exists and is public, not private", hint)
        self.report(StepDone("upload", 1, 0, f"{'created' if head is None else 'found'} the repository"))
        return head

    def _look(self, revision: str | None) -> "ModelInfo | None":
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return self.api.model_info(self.repo_id, revision=revision, timeout=request_timeout())
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:  # or the token has no access to it
            return None

    @contextmanager
    def told_when_left(self, created: bool) -> Iterator[None]:
        """Inside the block, make failures and interruptions report what remains on the Hub."""
        try:
            yield
        except HubError as error:
            if not created:
                raise
            left = f"; {self.repo_id} was created, and is empty unless the commit succeeded"
            raise HubError(error.message + left, error.hint, error.code) from error
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or a signal
                self.report(
                    Warned(f"the upload was interrupted: {repository_url(self.repo_id)} shows what was uploaded")
                )
            raise

    def commit(
        self,
        files: dict[str, bytes],
        stale: list[str],
        message: str,
        revision: str | None,
        create_pr: bool,
        parent: str | None,
    ) -> "CommitInfo":
        """Make a single commit; ``upload_folder`` may split many files into several."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def send() -> "CommitInfo":
            added = [CommitOperationAdd(path, content) for path, content in files.items()]
            return self.api.create_commit(
                self.repo_id,
                [*added, *map(CommitOperationDelete, stale)],
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,
            )

        with warnings.catch_warnings(record=True) as said:  # the Hub's warnings about the card
            warnings.simplefilter("always")
            made = self.ask(send)
        for warning in said:
            if issubclass(warning.category, UserWarning):
                self.report(Warned(" ".join(self.scrub(str(warning.message)).split())))
        return made

    def compare(self, files: dict[str, bytes], revision: str) -> None:
        entries = self.ask(lambda: self.api.get_paths_info(self.repo_id, list(files), revision=revision))
        found = {entry.path: entry for entry in entries}
        wrong = [path for path, content in files.items() if not _same(found.get(path), content)]
        if wrong:
            raise HubError(
                f"{self.repo_id} does not contain what was uploaded: {', '.join(wrong)} differ",
                f"commit {revision[:12]} is damaged: push again",
            )

    def ask(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``; retry a few times if the Hub says how long to wait.

        ``call`` must only contain calls of the client, because their exceptions are explained as failures of the Hub.
        """
        for left in reversed(range(TRIES)):
            try:
                with request_limits():
                    return call()
            except Exception as error:
                answer = root_error(error)
                if isinstance(answer, IntraqError):
                    raise answer from error
                if not isinstance(answer, (OSError, RuntimeError, ValueError)) and not is_http_error(answer):
                    raise
                wait = _wait(answer)
                if wait is None or not left:
                    reason, hint, code = explain_failure(answer)
                    raise HubError(self.scrub(f"cannot push to {self.repo_id}: {reason}"), hint, code) from error
            self.report(Warned(f"the Hub limits requests: trying again in {wait} s"))
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def scrub(self, text: str) -> str:
        """Return ``text`` with the token masked."""
        return text.replace(self.token, "***")


def _same(file: "RepoFile | RepoFolder | None", content: bytes) -> bool:
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.sha import git_hash

    if not isinstance(file, RepoFile) or file.size != len(content):
        return False
    return file.lfs.sha256 == hashlib.sha256(content).hexdigest() if file.lfs else file.blob_id == git_hash(content)


def _token(given: str | None) -> str:
    from huggingface_hub.utils import get_token_to_send

    token = given or get_token_to_send(None)
    if not token:
        raise HubError("there is no token for the Hub", LOGIN, "hub-token")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError("the token for the Hub contains invalid characters", LOGIN, "hub-token")
    return token


def _wait(answer: BaseException) -> int | None:
    """Return the seconds after which the Hub allows a retry; None if it did not say."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(answer, HfHubHTTPError) or answer.response.status_code != 429:
        return None
    after = answer.response.headers.get("retry-after", "")
    return int(after) if after.isdigit() else None


@contextmanager
def _client(report: Report) -> Iterator[None]:
    """Inside the block, hide the client's progress bars, and report its waits as our own warnings."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Told(report)], False
    try:
        if bars:
            disable_progress_bars()
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        if bars:
            enable_progress_bars()


class _Told(logging.Handler):
    """Report only that the client waits or retries; a lasting failure raises an error anyway."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(("Rate limited", "Retrying")):
            self.report(Warned(f"the Hub: {text[0].lower()}{text[1:]}"))
