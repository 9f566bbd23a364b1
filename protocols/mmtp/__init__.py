"""MMTP, the mobile protocol: frames, hand-shake, calls, pushes; specification in docs/spec/mmtp.md.

What outlives a connection, and who keeps it:

- Header states (capability `template`). Device: `send_hello(hello, HeaderMemory(table, up, down))`, with the newest
  CheckpointAcked of `up` and CheckpointTaken of `down`; what WELCOME did not accept is to be forgotten. Gateway: look
  up `HelloReceived.hello.headers`, then `send_welcome(welcome, FoundStates(table, up, down))`; keep every
  CheckpointTaken. A call that ends with CallReset(STATE_MISS) was not executed: request() it again with its call id.
- Tables: `offer_table`, TableHeld at the gateway; TableReceived at the device, for its next HeaderMemory.
- Dictionaries (`dict`). Device: `send_hello(hello, headers, Bundle(...))`, DictionaryReceived and DictionaryRetired
  change the bundle; a call that ends with CallReset(DICTIONARY_MISS) is requested again with `secret`. Gateway:
  `send_welcome(welcome, headers, bundle)` with the bundle that HELLO names, `offer_dictionary`, DictionaryHeld,
  `use_dictionary`, `drop_class`, `retire_dictionary`.
- History (`history`): `introduce_stream(alias, cursor, history=4096)`, then `offer_body`.

to_send() lets chunks of tables and dictionaries leave behind everything else, one per round trip.
"""

from __future__ import annotations

from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.greeting import CAPABILITIES
from protocols.mmtp.handshake import Goaway, Hello, StreamCursor, Welcome
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.pushes import encode_push
from protocols.mmtp.settings import Limits
from protocols.mmtp.statuses import Retry, Status, http_from_status, retry_of, status_from_http

__all__ = [
    "CAPABILITIES",
    "Checkpoint",
    "Connection",
    "FoundStates",
    "Goaway",
    "HeaderMemory",
    "Hello",
    "Limits",
    "Retry",
    "Role",
    "Status",
    "StreamCursor",
    "Welcome",
    "encode_push",
    "http_from_status",
    "retry_of",
    "status_from_http",
]
