"""What an operator can set about TLS as a whole; what differs by listener stands in ListenerSettings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from accessgw.model.setting_types import Count, Seconds, SecondsOrZero, Settings


class TlsSettings(Settings, frozen=True, kw_only=True):
    """Hand-shakes, tickets, early data."""

    engine: Literal["auto", "native", "pure"] = "auto"
    """What makes hand-shakes. native: the C engine on the system's OpenSSL, which remote signers need; pure: the one in
    the package cryptography; auto: native where it is built and loads."""
    handshake_threads: Annotated[int, Meta(ge=0, le=64)] = 0
    """Threads that make hand-shakes up to the signature; the reactor never signs. 0: on the native engine one for each
    processor but the reactor's, at most 8; on the pure one and with a signer elsewhere one, since more would only take
    the interpreter's lock from the reactor."""
    handshake_queue: Count = 4096
    """Hand-shakes that may wait for a thread; more connections are refused and counted."""
    handshake_coalescing: Annotated[float, Meta(ge=0, le=0.01)] = 0.0005
    """Seconds of a short pause that the reactor makes before it waits for events, as long as two or more steps of
    hand-shakes wait or run and few events come at a time. What comes meanwhile is served together: a hand-shake costs
    some percent less of the processor, and in such a storm an event may be served so much later. Leave it alone unless
    you have measured: 0 (no pauses) where every fraction of a millisecond counts even then; up to 0.001 where the
    processors are at their limit with hand-shakes and calls may be a millisecond late."""
    max_handshakes: Count = 8192
    """Hand-shakes under way at once, waiting or not; one holds some 60 KB until it is complete or `handshake_timeout`
    ends it. More connections are refused and counted."""
    key_store: str = "keys"
    """Directory of ticket secrets, revocations and the register of replays, relative to `state_dir`; processes of a
    node share it. It and its files must be for their user alone."""
    ticket_lifetime: Annotated[float, Meta(ge=60, le=86_400)] = 86_400.0
    """Seconds for which a ticket of WELCOME may be used, if its secret lives so long. Those of TLS itself: two hours."""
    ticket_rotation: Annotated[float, Meta(ge=60, le=28_800)] = 28_800.0
    """Seconds after which a new secret makes tickets. Three generations open them, so no secret lives longer than a
    day, and a ticket lives between two and three of these."""
    full_authentication_days: Annotated[int, Meta(ge=1, le=200)] = 7
    """Days after which a device must prove itself in full again, tickets or not."""
    replay_window: Annotated[float, Meta(ge=1, le=60)] = 10.0
    """Seconds by which a device's estimate of the time may be off for its early data to be taken. When the register of
    replays is new (first start, other size, reboot), early data is refused for twice as long, at least 12 s."""
    replay_entries: Annotated[int, Meta(ge=1024, le=1 << 26)] = 1 << 20
    """First flights with early data that are remembered of twice the window and `limits.handshake_timeout`; when the
    register is full, early data is refused. Each takes 48 bytes of the key store's disk."""
    signer: str = "threads"
    """Who signs: `threads` (private keys in this process); `process`: an accessgw-signer that this one starts; or
    `unix:PATH` of one that runs already. With the latter two this process holds no private key."""
    signer_timeout: Seconds = 2.0
    """A signature that takes longer fails its hand-shake."""
    signer_restart_after: SecondsOrZero = 1.0
    """With `process`: an accessgw-signer that is asked and answers nothing at all for so long is ended, and another one
    started. Choose more than its slowest signature takes; it must be less than `signer_timeout`, so that hand-shakes wait
    for the next one. 0: never."""
    signer_fallback: bool = False
    """Read the private keys here, too, and sign with them where the signer does not: a hand-shake rather survives
    than waits, and the keys are no better kept than with `threads`."""
    provider: str = ""
    """Name of an OpenSSL provider that has private keys, such as `tpm2`: loaded beside the default one by whoever signs,
    this process or, with signer `process`, the accessgw-signer. `listeners.certificates.key` is then a PEM file of the
    provider's own kind, or an ordinary one. Needs the native engine."""
    key_log: str = ""
    """Development only: file that gets the secrets of every connection in the format of NSS; whoever reads it reads
    all traffic. Announced at every start."""

    @property
    def own_provider(self) -> str:
        """The provider that this process loads."""
        return "" if self.signs_elsewhere else self.provider

    @property
    def signs_elsewhere(self) -> bool:
        """Whether hand-shakes wait for a signer outside of this process."""
        return self.signer != "threads"
