"""HELLO and WELCOME leave, and what they say holds from there on (specification, section 4)."""

from __future__ import annotations

from dataclasses import replace

from protocols.errors import LocalError
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.bundles import EMPTY_BUNDLE, Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.device_receiver import DeviceReceiver
from protocols.mmtp.frames import FrameType, encode_frame
from protocols.mmtp.gateway_exchange import FoundStates, bundle_in_force
from protocols.mmtp.gateway_receiver import GatewayReceiver
from protocols.mmtp.handshake import Hello, Welcome, encode_hello, encode_welcome
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.settings import DEFAULT_LIMITS, apply
from protocols.mmtp.state import Sent
from protocols.mmtp.uses import DICT_CAPABILITY, HISTORY_CAPABILITY, Uses
from protocols.mmtp.wire import Wire

CAPABILITIES = frozenset((ZSTD_CAPABILITY, TEMPLATE_CAPABILITY, DICT_CAPABILITY, HISTORY_CAPABILITY))
"""Optional features that this package has."""


def say_hello(
    wire: Wire,
    agreement: Agreement,
    receiver: DeviceReceiver,
    hello: Hello,
    *,
    headers: HeaderMemory | None,
    bundle: Bundle | None,
) -> None:
    """See Connection.send_hello."""
    state = wire.sends(Sent.HELLO)
    for given, capability in ((headers, TEMPLATE_CAPABILITY), (bundle, DICT_CAPABILITY)):
        if given is not None and capability not in hello.capabilities:
            raise LocalError(f"HELLO: names what needs the capability {capability}")
    settings = agreement.ours(hello.settings)
    hello = replace(
        hello,
        settings=settings,
        headers=headers.named if headers is not None else None,
        bundle=bundle.digest if bundle is not None and bundle.dictionaries else b"",
    )
    payload = encode_hello(hello)
    if len(payload) > DEFAULT_LIMITS.max_hello:
        raise LocalError(f"HELLO: expected at most {DEFAULT_LIMITS.max_hello} bytes, got {len(payload)}")
    wire.out.append(encode_frame(FrameType.HELLO, 0, payload))
    wire.enforced = apply(wire.limits, settings)
    wire.hello = hello
    wire.enter(state)
    if headers is not None:
        receiver.begin_exchange(headers, plain=hello.plain)
    if hello.bundle and bundle is not None:
        receiver.bundle = bundle
        if not hello.plain:
            wire.uses = Uses(bundle)


def say_welcome(
    wire: Wire,
    agreement: Agreement,
    receiver: GatewayReceiver,
    welcome: Welcome,
    *,
    headers: FoundStates | None,
    bundle: Bundle | None,
) -> None:
    """See Connection.send_welcome. Raises RemoteError for what came before and is received only now."""
    if welcome.result:
        state = wire.sends(Sent.REFUSAL)
        wire.out.append(encode_frame(FrameType.WELCOME, 0, encode_welcome(welcome)))
        wire.closing_status = welcome.result
        wire.enter(state)
        return
    state = wire.sends(Sent.WELCOME)
    settings = agreement.ours(welcome.settings)
    offered = wire.hello.capabilities if wire.hello is not None else frozenset()
    used = (welcome.capabilities or CAPABILITIES) & CAPABILITIES & offered
    if headers is None:
        used -= {TEMPLATE_CAPABILITY}
    welcome = replace(welcome, settings=settings, capabilities=used)
    _grant(wire, receiver, welcome, headers, bundle)
    wire.out.append(encode_frame(FrameType.WELCOME, 0, encode_welcome(welcome)))
    wire.zstd = ZSTD_CAPABILITY in used
    if settings:
        agreement.announce(apply(wire.limits, settings))
    wire.hello = None
    wire.enter(state)
    receiver.release()


def _grant(
    wire: Wire, receiver: GatewayReceiver, welcome: Welcome, found: FoundStates | None, bundle: Bundle | None
) -> None:
    """Fill in what WELCOME says of header states and dictionaries, and hold to it."""
    used = welcome.capabilities
    template = TEMPLATE_CAPABILITY in used
    dictionaries = DICT_CAPABILITY in used
    welcome.table, welcome.accepted, welcome.bundle = None, 0, b""
    if dictionaries or HISTORY_CAPABILITY in used:
        in_force = bundle_in_force(wire.hello, bundle) if dictionaries else EMPTY_BUNDLE
        wire.uses = Uses(in_force, dictionaries=dictionaries, history=HISTORY_CAPABILITY in used)
        if in_force.dictionaries:
            welcome.bundle = in_force.digest
    if template or dictionaries or receiver.exchange is not None:
        exchange = receiver.begin_exchange(None)
        welcome.table, welcome.accepted = exchange.grant(found, template=template)
