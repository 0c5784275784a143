"""What can go wrong for a client, as RFC 9457 problem documents with stable codes."""

from __future__ import annotations

import msgspec

from genrecall.errors import GenrecallError

STATUS = {
    "malformed": 400,
    "invalid": 422,
    "unknown_channel": 422,
    "unknown_column": 422,
    "unusable_filter": 422,
    "unauthenticated": 401,
    "forbidden_host": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable_type": 415,
    "body_too_slow": 408,
    "conflict": 409,
    "body_too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "draining": 503,
    "not_ready": 503,
    "storage_failed": 503,
}
"""HTTP status by code; the codes are part of the API."""

RETRYABLE = frozenset({"body_too_slow", "rate_limited", "overloaded", "draining", "not_ready", "storage_failed"})


class Problem(Exception):
    """A request that is refused.

    Args:
        code: a key of ``STATUS``.
        detail: what the client should know: never a path, a name of ours, or another's data.
        retry_after_s: when to try again, where that may help.
        allow: methods that the address knows, where it was asked with another.
        error: what the admin socket's client can mend, told in its four parts, paths and all.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: int | None = None,
        allow: str | None = None,
        error: GenrecallError | None = None,
    ) -> None:
        assert code in STATUS
        super().__init__(code)
        self.code, self.detail, self.retry_after_s, self.allow, self.error = code, detail, retry_after_s, allow, error

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.code]

    def document(self, request_id: str, path: str = "") -> bytes:
        """The body, ``application/problem+json``; ``path`` adds what the clients of other dialects look for."""
        said = self.detail or self.code.replace("_", " ")
        error: dict[str, object] = {} if self.error is None else {"parts": self.error.parts}
        if path == "/v1/chat/completions":
            error = {"error": {"message": said, "type": "genrecall_error", "code": self.code, "param": None}}
        elif path.startswith(("/v2", "/v1/models")):
            error = {"error": said}
        return msgspec.json.encode(
            error
            | {
                "type": f"urn:genrecall:problem:{self.code}",
                "title": self.code.replace("_", " "),
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
                "retryable": self.code in RETRYABLE,
                "request_id": request_id,
            }
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Beside the usual ones."""
        found = [(b"content-type", b"application/problem+json")]
        if self.retry_after_s is not None:
            found.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow is not None:
            found.append((b"allow", self.allow.encode()))
        if self.code in ("body_too_large", "body_too_slow"):
            found.append((b"connection", b"close"))  # else the rest of the body would be read, and thrown away
        if self.code == "unauthenticated":
            found.append((b"www-authenticate", b'Basic realm="genrecall", charset="UTF-8"'))
        return found
