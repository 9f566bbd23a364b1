"""HTTP without I/O: the only place where HTTP is parsed."""

from protocols.http.backends import backend
from protocols.http.client import ClientConnection
from protocols.http.limits import HttpLimits
from protocols.http.server import ServerConnection

__all__ = ["ClientConnection", "HttpLimits", "ServerConnection", "backend"]
