"""Tests of the TLS engine that are for any engine run on pyOpenSSL, on the system's libssl where it is built, and on that
with its hand-shakes on the threads of a crew.

In the latter runs the `server` of the test's module, its SERVER, and its PyOpenSSLEngine as a server, make those engines.
"""

from __future__ import annotations

from functools import partial

import pytest

from protocols.tls.pyopenssl_engine import PyOpenSSLEngine
from tests.protocols.tls.native_links import HAS_NATIVE, native_server, server_on_crew

FOR_ANY_ENGINE = {
    "test_detach",
    "test_downgrades",
    "test_early_data",
    "test_openssl_client",
    "test_pyopenssl_engine",
    "test_ticket_vector",
    "test_tls12_records",
    "test_tls_contexts",
}
OF_PYOPENSSL = {
    "test_after_a_refusal_what_waited_is_told_in_order": "spoils the count of the engine in Python",
    "test_a_detached_engine_is_dead_and_openssl_s_object_is_freed": "looks for pyOpenSSL's object",
    "test_an_engine_that_stays_keeps_no_secrets": "looks at the notes of the engine in Python",
    "test_a_suite_that_the_record_layer_does_not_know_stays": "takes a suite away from the engine in Python",
    "test_tls_1_2_is_refused_where_only_mmtp_is_spoken": "has a context of its own",
    "test_the_server_context_releases_buffers_and_never_renegotiates": "looks into pyOpenSSL's context",
}


@pytest.fixture(autouse=True)
def server_engine(request, monkeypatch):
    """pure | native | crew."""
    engine = getattr(request, "param", "pure")
    if engine != "pure":
        make = native_server if engine == "native" else server_on_crew
        monkeypatch.setattr(request.module, "server", make, raising=False)
        if hasattr(request.module, "SERVER"):
            monkeypatch.setattr(request.module, "SERVER", make())
        if hasattr(request.module, "PyOpenSSLEngine"):
            monkeypatch.setattr(request.module, "PyOpenSSLEngine", partial(_native_as_server, make))
    return engine


def _native_as_server(make, context, *, server, **more):
    if not server:
        return PyOpenSSLEngine(context, server=False, **more)
    below = frozenset({"http/1.1"})
    return make(alpn=["mmtp/1", "http/1.1"], alpn_below_1_3=below, minimum="1.2").engine()


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition(".")[2] not in FOR_ANY_ENGINE:
        return
    engines = ["pure"]
    if metafunc.function.__name__ not in OF_PYOPENSSL:
        there = pytest.mark.skipif(not HAS_NATIVE, reason="no native engine here")
        engines += [pytest.param(engine, marks=there) for engine in ("native", "crew")]
    metafunc.parametrize("server_engine", engines, indirect=True)
