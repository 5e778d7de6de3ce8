"""Downloads from the Hugging Face Hub with its own client, and messages for the client's errors, also on uploads."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import getproxies, proxy_bypass

from intraq_cli.errors import HubError, IntraqError, ModelError, first_line

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError, Response

TIMEOUT = 60.0
"""Seconds to wait for data from the Hub; ``HF_HUB_DOWNLOAD_TIMEOUT`` overrides it. Else the client waits forever."""
CONNECT_TIMEOUT = 20.0
"""Seconds to wait for a connection to the Hub."""
LONGEST_WAIT = 300
"""Longest accepted ``retry-after``, in seconds: the Hub's rate limits apply to windows of five minutes."""
LOGIN = "log in with `hf auth login`, or set HF_TOKEN; to write, the token needs write access"
UNREACHABLE = "the Hub cannot be reached"


def split_revision(repository: str) -> tuple[str, str | None]:
    """Split ``ORG/NAME[@REVISION]`` into ``ORG/NAME`` and the revision, or None."""
    repo_id, _, revision = repository.partition("@")
    return repo_id, revision or None


def hub_file(repository: str, filename: str, kind: Literal["model", "dataset"] = "model") -> str:
    """Return the path in the Hub's cache of one file of ``ORG/NAME[@REVISION]``, downloading it if needed."""
    from huggingface_hub import hf_hub_download

    repo_id, revision = split_revision(repository)
    return hf_hub_download(repo_id, filename, repo_type=kind, revision=revision)


def cached_commit(repository: str) -> str | None:
    """Return the commit that the Hub's cache holds for ``ORG/NAME[@REVISION]``; None if it holds none."""
    from huggingface_hub import try_to_load_from_cache

    repo_id, revision = split_revision(repository)
    for filename in ("config.json", "model.safetensors"):
        path = try_to_load_from_cache(repo_id, filename, revision=revision)
        if isinstance(path, str):
            return Path(path).parent.name
    return None


def is_offline() -> bool:
    """Whether the user has forbidden downloads (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


@contextmanager
def downloading(what: str) -> Iterator[None]:
    """Within the block, turn download errors into a one-line message with a hint.

    Raises:
        ModelError: ``what`` cannot be downloaded.
    """
    from huggingface_hub import errors as hub

    try:
        with request_limits():
            yield
    except IntraqError:
        raise
    except hub.GatedRepoError as error:
        raise ModelError(f"{what} is gated", "accept its terms on the Hub and log in: `hf auth login`") from error
    except hub.RepositoryNotFoundError as error:
        hint = "check the spelling; a private repository needs a token: `hf auth login`"
        raise ModelError(f"the Hub has no repository {what}, and there is no such folder here", hint) from error
    except hub.RevisionNotFoundError as error:
        hint = "check --revision, or the part after the @"
        raise ModelError(f"{what}: the repository has no such revision", hint) from error
    except hub.HFValidationError as error:
        raise ModelError(f"{what} is not a valid name on the Hub", "write ORG/NAME or ORG/NAME@REVISION") from error
    except hub.RemoteEntryNotFoundError as error:
        raise ModelError(
            f"{what} lacks a file: {first_line(error)}", "give a model with config.json and model.safetensors"
        ) from error
    except (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError) as error:
        answer = root_error(error)
        if isinstance(answer, hub.HfHubHTTPError) or _is_timeout(answer):
            reason, hint, _ = explain_failure(answer)
        else:
            reason, way = ("HF_HUB_OFFLINE is set", "unset it") if is_offline() else (UNREACHABLE, "check the network")
            hint = f"{way}, or check the spelling of a folder; `intraq zoo list` shows models that work offline"
        raise ModelError(f"cannot download {what}: {reason}", hint) from error
    except hub.HTTPError as error:  # from the client's HTTP library
        reason, hint, _ = explain_failure(error)
        raise ModelError(f"cannot download {what}: {reason}", hint) from error
    except OSError as error:  # an aborted download, an unresolved host name, a full disk
        reason = getattr(error, "reason", None) or first_line(error)  # URLError wraps another
        raise ModelError(f"cannot download {what}: {reason}", "check the network and the disk") from error


@contextmanager
def request_limits() -> Iterator[None]:
    """Within the block the client has timeouts. Use one block per call: the client replaces its session on failures."""
    from huggingface_hub.utils import get_session

    session = get_session()
    timeout, hooks = session.timeout, session.event_hooks
    if timeout.read is None:
        session.timeout = request_timeout()
    session.event_hooks = {
        "request": [*hooks["request"], _reach],
        "response": [*hooks["response"], _refuse_to_wait_long],
    }
    try:
        yield
    finally:
        session.timeout, session.event_hooks = timeout, hooks


_reached: set[tuple[str, int]] = set()
"""Hosts and ports that have answered."""


def _reach(request: Any) -> None:
    """Check that the host can be reached; the client itself would retry for half a minute.

    Raises:
        OfflineModeIsEnabled: it cannot; the client then falls back to its cache.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
    by_proxy = {request.url.scheme, "all"} & getproxies().keys() and not proxy_bypass(host)
    if (host, port) in _reached or by_proxy:
        return
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise OfflineModeIsEnabled(f"{host} cannot be reached: {error.strerror or error}") from None
    _reached.add((host, port))


def _refuse_to_wait_long(response: "Response") -> None:
    """Raise an error on a long ``retry-after``; the client itself would sleep that long, even for a day."""
    wait = response.headers.get("retry-after", "")
    if wait.isdigit() and int(wait) > LONGEST_WAIT:
        raise HubError(f"the Hub accepts no more requests for {wait} s", "try again after that", "hub-busy")


def request_timeout() -> float:
    """Return the seconds without a byte from the Hub after which a request fails."""
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT if os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") else TIMEOUT


def root_error(error: BaseException) -> BaseException:
    """Return the original HTTP error inside the errors that the client wraps it in."""
    while not is_http_error(error) and not isinstance(error, IntraqError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_http_error(error: BaseException) -> bool:
    """Whether the error is from the client's HTTP library."""
    from huggingface_hub.errors import HTTPError

    return isinstance(error, HTTPError)


def _is_timeout(error: BaseException) -> bool:
    return is_http_error(error) and "Timeout" in type(error).__name__


def explain_failure(error: BaseException) -> tuple[str, str, str]:
    """Return the reason, the hint and the error code for an error of the client."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.OfflineModeIsEnabled) and is_offline():
        return "HF_HUB_OFFLINE is set", "unset it", "hub-unreachable"
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_status(error)
    if _is_timeout(error):
        hint = "try again; HF_HUB_DOWNLOAD_TIMEOUT sets the seconds to wait"
        return "the Hub did not answer in time", hint, "hub-unreachable"
    if is_http_error(error) or isinstance(error, hub.OfflineModeIsEnabled):
        return f"{UNREACHABLE}: {first_line(error)}", "check the network and HF_ENDPOINT", "hub-unreachable"
    return " ".join(str(error).split()), "check HF_ENDPOINT, and try again", "hub"


def _explain_status(error: "HfHubHTTPError") -> tuple[str, str, str]:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    said = f"{status}: {' '.join((error.server_message or error.response.reason_phrase).split())[:300]}"
    if isinstance(error, RevisionNotFoundError):
        hint = "create the branch first: `hf repos branch create ORG/NAME REVISION`"
        return f"there is no such revision ({said})", hint, "hub-missing"
    if isinstance(error, GatedRepoError):
        return f"it is gated ({said})", "accept its terms on the Hub and log in: `hf auth login`", "hub-forbidden"
    match status:
        case 401:
            return f"the token is not accepted ({said})", LOGIN, "hub-token"
        case 403:
            hint = "check the owner's name and the token's permissions"
            return f"the token does not allow this ({said})", hint, "hub-forbidden"
        case 404:
            return f"it was not found ({said})", "check the spelling and the token's permissions", "hub-missing"
        case 409 | 412:
            hint = "check what is there now, then try again"
            return f"somebody else has changed it in the meantime ({said})", hint, "hub-conflict"
        case 429:
            return f"the Hub accepts no more requests for now ({said})", "try again later", "hub-busy"
        case _ if status >= 500:
            return f"the Hub reported an error ({said})", "try again later", "hub"
    return f"the Hub refused the request ({said})", "", "hub"
