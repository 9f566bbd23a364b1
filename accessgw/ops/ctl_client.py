"""The HTTP client of accessgwctl: one request, one JSON answer, or a stream of events."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from accessgw.ops import ctl_json
from accessgw.ops.ctl_view import trouble

DEVELOPMENT_TOKENS = {"read": "dev-read", "push": "dev-push", "operate": "dev-operate"}
"""What etc/accessgw.toml ships; the gateway accepts them from loopback only."""


class Unreachable(Exception):
    """No answer from the gateway; says where it was looked for and why it failed."""


class Refused(Exception):
    """The gateway answered, but not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlClient:
    """Talks to one control API. `context` verifies an https:// gateway; without one the system's authorities do.
    Raises ValueError when `url` is none."""

    def __init__(self, url: str, token: str = "", timeout: float = 30.0, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'expected an http:// or https:// URL, got "{url}"')
        self._url = url
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._context = context

    @property
    def loopback(self) -> bool:
        """Whether the gateway is on this machine, where development tokens are accepted."""
        if self._host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self._host).is_loopback
        except ValueError:
            return False

    def request(
        self, method: str, path: str, body: str = "", *, role: str, key: str = "", timeout: float | None = None
    ) -> Any:
        """The JSON (or text) of the answer, `timeout` in seconds. Raises Refused or Unreachable."""
        timeout = self._timeout if timeout is None else timeout
        connection, answer = self._send(method, path, body, role, key=key, timeout=timeout)
        try:
            text = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} went away: {trouble(error)}") from None
        finally:
            connection.close()
        return _parsed(text)

    def content(self, path: str, *, role: str) -> bytes:
        """The bytes of the answer. Raises Refused or Unreachable."""
        connection, answer = self._send("GET", path, "", role, key="", timeout=self._timeout)
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} went away: {trouble(error)}") from None
        finally:
            connection.close()

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """Server-sent events until the gateway ends them. Raises Refused or Unreachable."""
        # a quiet stream has a comment every 15 s; one without for a minute is dead
        connection, answer = self._send("GET", path, "", "read", key="", timeout=60.0)
        try:
            rest = b""
            # readline() would take an answer that is cut off for its end
            while data := answer.read1(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield ctl_json.loads(line.removeprefix(b"data: "))
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} went away: {trouble(error)}") from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._scheme == "https":
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _send(
        self, method: str, path: str, body: str, role: str, *, key: str, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection(timeout)
        token = self._token or (DEVELOPMENT_TOKENS[role] if self.loopback else "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Idempotency-Key"] = key
        try:
            connection.request(method, self._prefix + path, body.encode() if body else None, headers)
            answer = connection.getresponse()
            if answer.status == 200:
                return connection, answer
            text = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(f"cannot reach {self._url}: {trouble(error)}") from None
        connection.close()
        raise Refused(answer.status, _reason(answer.status, text, bool(token)))


def trusting(ca: str) -> ssl.SSLContext:
    """A context that trusts the authorities of a PEM file alone. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _parsed(text: str) -> Any:
    try:
        return ctl_json.loads(text)
    except ValueError:
        return text


def _reason(status: int, text: str, has_token: bool) -> str:
    answer = _parsed(text)
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message", "") if isinstance(error, dict) else text[:200].strip()
    if status == 401 and not has_token:
        message += "; give --token or set ACCESSGW_TOKEN"
    return f"{status}: {message}"
