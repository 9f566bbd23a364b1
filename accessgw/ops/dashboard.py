"""The dashboard page of the control API: one file, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

PAGE: bytes = files("accessgw.ops").joinpath("dashboard.html").read_bytes()


def _sources(tag: str) -> str:
    """The inline elements of the page as sources of a content security policy: only these run."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


HEADERS = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        f"default-src 'none'; script-src {_sources('script')}; style-src {_sources('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
)
