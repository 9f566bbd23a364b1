"""Starting, refusing to start, reloading and stopping, as an operator meets them."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accessgw.crypto.development import ensure_development_certificate
from accessgw.gateway import RELOAD_INTERVAL
from loadtest.free_ports import free_ports
from protocols.mmtp import Status
from tests.crypto.authority import Authority
from tests.crypto.revoking import crl
from tests.system.device import Device
from tests.system.gateway_process import PATIENCE, ROOT, Gateway
from tests.system.upstream import Upstream

MakeGateway = Callable[..., Gateway]

STOPPED = (0, -signal.SIGTERM)
"""After an orderly end twistd dies of the signal that it was sent, as systemd expects of it."""


def twistd(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("twistd"), "--nodaemon", "--pidfile=", "accessgw", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        (
            '[[listeners]]\nname = "a"\n[[listeners]]\nname = "b"\nport = "x"\n',
            'listeners[1].port: expected an integer in 1..65535, got "x"',
        ),
        ("[pushes]\nretnetion = 5\n", "pushes.retnetion: unknown key"),
        ("[pushes\n", "line 1"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_code_1(tmp_path: Path, toml: str, complaint: str) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(toml)
    for options in ((), ("--check",)):
        done = twistd("--config", config, *options)
        assert done.returncode == 1
        assert complaint in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stdout == ""


def test_a_damaged_revocation_list_is_one_line_of_the_check_and_exit_code_1(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    lists, config = tmp_path / "crl.pem", tmp_path / "accessgw.toml"
    config.write_text(
        f'state_dir = "{tmp_path}/state"\n[[listeners]]\nname = "tls"\ntransport = "tls"\nport = 7443\n'
        f'client_certificates = "require"\nclient_ca = "{authority.file}"\nclient_crl = "{lists}"\n'
    )
    lists.write_bytes(crl(authority))
    assert twistd("--config", config, "--check").returncode == 0
    lists.write_bytes(b"damaged")
    done = twistd("--config", config, "--check")
    complaint = f"listeners[0].client_crl: {lists}: expected PEM revocation lists, got none\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", complaint)
    assert not (tmp_path / "state").exists()


def test_a_missing_configuration_names_its_path(tmp_path: Path) -> None:
    done = twistd("--config", tmp_path / "nowhere.toml")
    assert done.returncode == 1
    assert "nowhere.toml" in done.stderr


def test_the_shipped_configuration_is_good_and_can_be_printed() -> None:
    assert twistd("--config", "etc/accessgw.toml", "--check").returncode == 0
    printed = twistd("--config", "etc/accessgw.toml", "--print-config")
    assert printed.returncode == 0
    assert "7443" in printed.stdout
    assert "dev-operate" not in printed.stdout, "secrets are masked"


def test_a_port_in_use_is_told_and_leaves_nothing_behind(make_gateway: MakeGateway) -> None:
    first = make_gateway().start()
    second = make_gateway()
    second.tls, second.plain, second.control = first.tls, first.plain, first.control
    second.write_config()
    done = twistd("--config", second.config)
    assert done.returncode != 0
    assert f"{first.tls}" in done.stdout + done.stderr


def test_reload_touches_no_connection_and_refuses_a_bad_file(gateway: Gateway) -> None:
    device = Device(gateway.plain).welcomed()
    assert device.call("echo").status == 0
    assert gateway.process is not None

    gateway.config.write_text(gateway.config.read_text() + '\n[pushes]\nmax_batch = "many"\n')
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(lambda: "pushes.max_batch: expected" in gateway.said())
    assert device.call("echo").status == 0

    gateway.write_config(extra="\n[pushes]\nmax_batch = 1\n")
    gateway.process.send_signal(signal.SIGHUP)
    two = [{"to": {"device": "d1"}, "biz": "b", "payload": n} for n in range(2)]
    gateway.wait_until(lambda: gateway.http("POST", "/v1/push", two, "t-push")[0] != 200)
    assert device.call("echo").status == 0
    status, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert status == 200, answer


def test_sigterm_says_goaway_and_stops(gateway: Gateway) -> None:
    devices = [Device(gateway.plain, f"d{n}").welcomed() for n in range(20)]
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    for device in devices:
        assert device.goodbye() == Status.DRAINING
        device.cut()  # the gateway waits some seconds for who does not
    assert gateway.process.wait(PATIENCE) in STOPPED


def test_sigterm_without_connections_waits_for_none(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(extra=f"\n[drain]\ntimeout = {10 * PATIENCE}\n").start()
    assert gateway.terminate() in STOPPED


def test_ready_fails_while_draining_and_calls_in_flight_finish(gateway: Gateway, upstream: object) -> None:
    device = Device(gateway.plain).welcomed()
    number = device.send("hold")
    assert upstream.arrived.acquire(timeout=PATIENCE)  # type: ignore[attr-defined]
    status, _ = gateway.http("POST", "/v1/drain", {"seconds": 1}, "t-operate")
    assert status == 200
    gateway.wait_until(lambda: gateway.http("GET", "/health/ready")[0] == 503)
    assert gateway.http("GET", "/health/live")[0] == 200
    upstream.release.set()  # type: ignore[attr-defined]
    from protocols.mmtp.events import ResponseReceived

    assert device.expect(ResponseReceived, lambda event: event.call == number).status == 0
    assert device.goodbye() == Status.DRAINING


def test_the_access_log_is_reopened_on_sighup(make_gateway: MakeGateway, upstream: object, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    gateway = make_gateway(upstream=upstream.url, extra=f'\n[log]\naccess = "{log}"\n').start()  # type: ignore[attr-defined]
    assert Device(gateway.plain).welcomed().call("echo").status == 0
    gateway.wait_until(lambda: '"echo"' in log.read_text())
    os.rename(log, tmp_path / "access.log.1")
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(lambda: gateway.said().count("reloaded") == 1)
    assert Device(gateway.plain).welcomed().call("echo.again").status == 0
    gateway.wait_until(lambda: log.exists() and '"echo.again"' in log.read_text())
    assert '"echo.again"' not in (tmp_path / "access.log.1").read_text()


def test_sigusr2_does_not_kill_what_cannot_be_upgraded(gateway: Gateway) -> None:
    device = Device(gateway.plain).welcomed()
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.wait_until(lambda: "cannot be upgraded in place" in gateway.said())
    assert device.call("echo").status == 0


def test_a_taken_port_of_the_demo_is_one_line(make_gateway: MakeGateway) -> None:
    first = make_gateway().start()
    second = make_gateway(top=f'demo_upstream = "http://127.0.0.1:{first.plain}"\n')
    done = twistd("--config", second.config)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert str(first.plain) in done.stderr


@pytest.mark.parametrize("kind", ["static", "certificate"])
def test_the_lines_to_try_show_a_certificate_where_one_is_required(
    make_gateway: MakeGateway, tmp_path: Path, kind: str
) -> None:
    (port,) = free_ports(1)
    demo = f"http://127.0.0.1:{port}"
    gateway = make_gateway(upstream=demo, top=f'demo_upstream = "{demo}"\n')
    authority = Authority(tmp_path, "devices-ca")
    asks = f'client_certificates = "require"\nclient_ca = "{authority.file}"\n'
    text = gateway.config.read_text().replace('name = "phones"\n', f'name = "phones"\n{asks}')
    text = text.replace('token = "t-push", ', 'token = "t-push", loopback_only = true, ')
    if kind == "certificate":
        begin, end = text.index("[[authenticators]]"), text.index("[control]")
        text = text[:begin] + '[[authenticators]]\nkind = "certificate"\n' + text[end:]
    gateway.config.write_text(text)
    gateway.start()
    gateway.wait_until(lambda: "/v1/push" in gateway.said())
    what, call, *_ = gateway.said().split("try, in another shell ")[1].splitlines()
    assert what == f"(device.pem: a certificate from {authority.file} whose cn is phone1, with its key):"
    assert ("--token device-token" in call) == (kind == "static")
    authority.issue("device", common=("phone1",))
    command = call.strip().replace(".venv/bin", str(Path(sys.executable).parent))
    command = command.replace("accessgw-client ", f"accessgw-client --timeout {PATIENCE} ", 1)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert '"state": "paid"' in done.stdout, done.stderr


def padded(pem: Path) -> bytes:
    """As long as any other."""
    return pem.read_bytes().ljust(8192, b"\n")


def put_unseen(path: Path, content: bytes) -> None:
    """Into a file that the gateway watches, which loads a changed one by itself: of the same size, inode and time, so that
    only a reload finds it."""
    before = path.stat()
    assert before.st_size == len(content)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_refused_reload_swaps_no_certificate(make_gateway: MakeGateway, tmp_path: Path) -> None:
    """Two TLS listeners; the first one's new files are good, the second one's are not."""
    made = make_gateway().start()
    made.terminate()
    state = made.directory / "state"
    for name in ("one", "two"):
        for kind in ("server.pem", "server-key.pem"):
            (tmp_path / f"{name}-{kind}").write_bytes(padded(state / kind))
    ports = dict(zip(("one", "two"), free_ports(2), strict=True))
    listeners = "".join(
        f"""
[[listeners]]
name = "{name}"
transport = "tls"
port = {port}
protocols = ["http/1.1"]
certificates = [{{ chain = "{tmp_path}/{name}-server.pem", key = "{tmp_path}/{name}-server-key.pem" }}]
"""
        for name, port in ports.items()
    )
    gateway = make_gateway(extra=listeners).start()
    port = ports["one"]
    before = ssl.get_server_certificate(("127.0.0.1", port))
    fresh = tmp_path / "fresh"
    files = ensure_development_certificate(str(fresh), time.time(), "other")
    put_unseen(tmp_path / "one-server.pem", padded(Path(files.chain)))
    put_unseen(tmp_path / "one-server-key.pem", padded(Path(files.key)))
    put_unseen(tmp_path / "two-server.pem", b"junk".ljust(8192, b"\n"))  # found by the configuration already
    status, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert status == 422
    assert answer["error"]["path"] == "listeners[3].certificates[0]"
    assert ssl.get_server_certificate(("127.0.0.1", port)) == before
    put_unseen(tmp_path / "two-server.pem", padded(Path(files.chain)))
    put_unseen(tmp_path / "two-server-key.pem", padded(Path(files.key)))
    status, answer = gateway.http("POST", "/v1/reload", None, "t-operate")
    assert status == 200 and answer["certificates_waiting"] == []
    assert {f"{tmp_path}/one-server.pem", f"{tmp_path}/two-server.pem"} <= set(answer["certificates_loaded"])
    assert ssl.get_server_certificate(("127.0.0.1", port)) != before


def test_a_storm_of_sighup_is_a_few_reloads(gateway: Gateway) -> None:
    device = Device(gateway.plain).welcomed()
    assert gateway.process is not None
    began = time.monotonic()
    while (reloads := gateway.said().count("reloaded")) < 3:
        gateway.process.send_signal(signal.SIGHUP)
        assert device.call("query.x").status == 0
        assert time.monotonic() - began < PATIENCE
    # one at once, the others behind it at their distance, however long the storm has taken
    assert reloads <= 1 + (time.monotonic() - began) / RELOAD_INTERVAL
    assert device.call("query.x").status == 0
    gateway.assert_sound()


@pytest.mark.parametrize(
    ("wanted", "parser", "hpack", "records"),
    [("pure", "h11", "hpack", "cryptography"), ("native", "httptools", "nghttp2", "libcrypto")],
)
def test_the_codecs_can_be_chosen(
    make_gateway: MakeGateway, upstream: Upstream, wanted: str, parser: str, hpack: str, records: str
) -> None:
    if hpack == "nghttp2":
        pytest.importorskip("protocols._native.nghttp2", reason="libnghttp2 is not installed", exc_type=ImportError)
        pytest.importorskip("protocols._native.tls_records", reason="no C compiler at installation")
        pytest.importorskip("protocols.tls.native_engine", reason="no libssl.so.3", exc_type=ImportError)
    gateway = make_gateway(upstream=upstream.url)
    gateway.environment["ACCESSGW_ACCEL"] = wanted
    gateway.start()
    said = gateway.said()
    engine = "pyopenssl" if wanted == "pure" else "native"
    assert f"HTTP parser {parser}, HPACK {hpack}, TLS {engine} (OpenSSL " in said
    assert f"), TLS records {records}, " in said
    assert ("no native TLS engine, so private keys are in this process: ACCESSGW_ACCEL is pure" in said) == (
        wanted == "pure"
    )
    backends = gateway.http("GET", "/v1/config", token="t-read")[1]["backends"]
    assert (backends["http"], backends["hpack"], backends["tls-records"]) == (parser, hpack, records)
    assert Device(gateway.plain).welcomed().call("echo").status == Status.OK
