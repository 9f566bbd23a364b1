"""The benchmark of TLS: its clients tell what happened, and a figure that is not what it says is none."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from math import inf

import pytest

from loadtest.bench.bench_tls import what_is_wrong
from loadtest.bench.tls_clients import Order, Tally
from loadtest.bench.tls_processes import again, client, server_of
from loadtest.bench.tls_servers import MUTUAL, P256, RSA_2048, TlsGateway, make_certificates
from loadtest.bench.tls_storm import bound_to, processors, quantile


def shake(order, times=1):
    process = client(order)
    tallies = [again(process) for _ in range(times)]
    process.communicate()
    return tallies[-1]


def test_the_clients_count_what_a_gateway_served(tmp_path):
    certificates = make_certificates(tmp_path)
    device = {"chain": str(certificates.chain("device")), "key": str(certificates.key("device"))}
    with server_of(TlsGateway, tmp_path, certificates) as server:
        before = server.cpu_of_all()
        full = shake(Order(server.ports[P256], count=5))
        assert server.cpu_of_all() > before
        rsa = shake(Order(server.ports[RSA_2048], count=2))
        mutual = shake(Order(server.ports[MUTUAL], count=2, **device))
        refused = shake(Order(server.ports[MUTUAL], count=2))
        resumed = shake(Order(server.ports[P256], count=5, width=1, resume=True))
        all_resumed = shake(Order(server.ports[P256], count=5, width=2, resume=True), times=2)
        hello = shake(Order(server.ports[P256], count=5, width=1, resume=True, device=True, alpn="mmtp/1"))
    assert (full["done"], full["resumed"], full["failed"]) == (5, 0, [])
    assert rsa["first_down"] > full["first_down"] > full["first_up"] > 200
    assert (mutual["done"], mutual["failed"]) == (2, [])
    # Without a certificate: the client's side of the hand-shake is complete before the server refuses it.
    assert len(refused["failed"]) == 2
    assert (resumed["done"], resumed["resumed"]) == (5, 4)
    assert (all_resumed["done"], all_resumed["resumed"]) == (5, 5)
    assert (hello["done"], hello["answered"], hello["early"], hello["ticket"]) == (5, 5, 4, 17)


@pytest.mark.parametrize(
    ("order", "tally", "wrong"),
    [
        (Order(1), Tally(done=100), ""),
        (Order(1), Tally(done=97, failed=["alert 40"] * 3), "failed: alert 40"),
        (Order(1, resume=True), Tally(done=100, resumed=50), "not resumed: 50 of 100"),
        (Order(1, resume=True, device=True), Tally(done=100, resumed=99), "early data not taken: 100 of 100"),
        (Order(1, device=True), Tally(done=100, answered=80), "not answered: 20 of 100"),
    ],
)
def test_what_is_wrong(order, tally, wrong):
    assert what_is_wrong(order, asdict(tally), 100) == wrong


def test_quantiles_of_buckets():
    looks = {0.5: 10.0, 2.0: 98.0, 5.0: 100.0, inf: 100.0}
    assert quantile(looks, 0.5) == 2.0
    assert quantile(looks, 0.99) == 5.0
    assert quantile({}, 0.5) is None


def test_gateway_and_clients_of_a_storm_have_processors_of_their_own():
    ours, theirs = processors()
    every = os.sched_getaffinity(0)
    assert ours | theirs == every
    assert not ours & theirs or len(every) == 1
    with bound_to(ours):
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert {int(one) for one in child.stdout.split()} == ours
    assert os.sched_getaffinity(0) == every
