"""Questions of authenticators to services that know their users: one POST each, on connections as calls have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.upstreams import UpstreamClient
from accessgw.model.route_settings import ClusterSettings
from accessgw.model.settings import AuthenticatorSettings
from accessgw.upstreams.address import DEFAULT_PORTS
from accessgw.upstreams.post import Poster, cluster_of


def clusters_of_questions(settings: Sequence[AuthenticatorSettings]) -> list[ClusterSettings]:
    """A cluster per host that authenticators ask. Its name has a colon, so that no route can name it."""
    clusters = [cluster_of(one.url, _name(one), one.tls) for one in settings if one.kind == "http"]
    return list({cluster.name: cluster for cluster in clusters}.values())


def user_of(cluster: str, settings: Sequence[AuthenticatorSettings]) -> str:
    """Who uses a cluster, in words of the operator: "cluster payments", or the authenticators that ask there."""
    names = [one.name or one.kind for one in settings if one.kind == "http" and _name(one) == cluster]
    return f"authenticator {', '.join(names)}" if names else f"cluster {cluster}"


class Questions:
    """Callable as crypto.services.Post. `upstreams` has the clusters of `clusters_of_questions`."""

    def __init__(self, upstreams: UpstreamClient, clock: Clock) -> None:
        self._upstreams = upstreams
        self._clock = clock

    def __call__(self, settings: AuthenticatorSettings, body: bytes) -> Deferred[tuple[int, bytes]]:
        """Asking twice is as good as asking once: a connection that broke is no failure yet."""
        poster = Poster(self._upstreams, _name(settings), self._clock)
        headers = [("content-type", "application/json"), ("accept", "application/json")]
        return poster.ask(settings.url, headers, body, settings.timeout, retries=1)


def _name(settings: AuthenticatorSettings) -> str:
    parts = urlsplit(settings.url)
    name = f"authenticator:{parts.hostname}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 80)}"
    if parts.scheme == "https":
        # Two may reach one host with certificates of their own.
        name += f":tls-{hashlib.sha256(repr(settings.tls).encode()).hexdigest()[:8]}"
    return name
