"""What the hub's refusals mean, and what is to be done about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxk.store.hub_errors import OperationError, TransferError

if TYPE_CHECKING:
    from mlxk.store.hub_client import HubClient

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_BAD_TOKEN = "Invalid credentials in Authorization header"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token from https://huggingface.co/settings/tokens"


def as_error(error: Exception, repo_id: str, client: HubClient) -> Exception:
    """The error of one request as one of ours: TransferError if it is worth another attempt, else
    OperationError. What is none of the hub's comes back as it is."""
    import httpx
    from huggingface_hub import errors

    if isinstance(error, (OperationError, TransferError)):
        return error
    if isinstance(error, errors.GatedRepoError):
        return _gated(error, repo_id, client)
    if isinstance(error, errors.DisabledRepoError):
        return OperationError("access_denied", f"the hub has disabled access to {repo_id}", model=repo_id)
    if isinstance(error, errors.RevisionNotFoundError):
        return OperationError("revision_not_found", f"{repo_id} has no such revision", model=repo_id)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(repo_id, client)
    if isinstance(error, errors.HfHubHTTPError):
        return _http(error, repo_id, client)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OperationError("hub_unreachable", f"the hub is out of bounds: {error}", offline=True)
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return as_error(error.__cause__, repo_id, client)  # huggingface_hub's way to say that a HEAD failed
    if isinstance(error, httpx.TransportError):
        return _transport(error, client)
    return error


def _transport(error: Exception, client: HubClient) -> Exception:
    import httpx

    if isinstance(error, (httpx.UnsupportedProtocol, httpx.ProxyError)):
        return OperationError("hub_unreachable", f"cannot connect to {client.endpoint}: {error}")
    if isinstance(error, httpx.ConnectError) and not client.reached and _is_hopeless(error):
        return OperationError(
            "hub_unreachable",
            f"cannot connect to {client.endpoint} ({error}): this machine is offline, or a firewall or proxy "
            "is in the way. What is installed works without it: `mlxk list`",
            offline=True,
        )
    what = "timed out" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    return TransferError(f"the connection to {client.endpoint} failed ({what})")


def _is_hopeless(error: BaseException) -> bool:
    """No such host, refused, no route: another attempt a second later would fail alike."""
    import socket

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (socket.gaierror, ConnectionRefusedError)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _gated(error: Any, repo_id: str, client: HubClient) -> OperationError:
    page = client.page(repo_id)
    if client.has_token():
        todo = (
            f"Your token is known, but has no access: open {page}, accept the conditions with the same "
            "account (some are then reviewed by people), and see that the token may read gated repositories"
        )
    else:
        todo = f"1. Open {page} and accept its conditions. 2. Then {LOGIN}"
    return OperationError(
        "gated_model",
        f"{repo_id} is gated: its authors ask for an agreement first. {todo}. Nothing was written.",
        model=repo_id,
        url=page,
        authenticated=client.has_token(),
    )


def _not_found(repo_id: str, client: HubClient) -> OperationError:
    """The hub does not tell a private repository from none: that there is one is private too."""
    if client.has_token():
        hint = "or it is private and your token has no access to it"
    else:
        hint = f"or it is private: then {LOGIN}"
    return OperationError(
        "model_not_found", f"the hub has no model '{repo_id}', {hint}", model=repo_id, nearest=[]
    )


def _http(error: Any, repo_id: str, client: HubClient) -> Exception:
    response = error.response
    status = response.status_code
    words = (error.server_message or response.reason_phrase or "").strip().splitlines()
    said = f"the hub answered {status}" + (f" ({words[0][:200]})" if words else "")
    if status in _RETRIED:
        return TransferError(said, retry_after_s(response.headers))
    if status == 401 and words[:1] != [_BAD_TOKEN]:
        return _not_found(repo_id, client)  # as huggingface_hub reads it, but of https addresses only
    if status == 401:
        source = "your token was not accepted" if client.has_token() else "a token is needed"
        return OperationError("unauthorized", f"{said}: {source}; {LOGIN}", model=repo_id)
    if status == 403:
        return OperationError(
            "access_denied", f"{said}: your token may not read {repo_id}; {LOGIN}", model=repo_id
        )
    if status == 404:
        return OperationError("file_not_found", f"{said} for a file of {repo_id}", model=repo_id)
    return OperationError("hub_error", said, model=repo_id, status=status)


def retry_after_s(headers: Any) -> float | None:
    """Seconds that a 429 or 503 asks for: its Retry-After, else the end of the window in RateLimit."""
    from huggingface_hub.utils import parse_ratelimit_headers

    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    window = parse_ratelimit_headers(headers)
    if window is not None and window.remaining == 0:
        return float(window.reset_in_seconds)
    return None
