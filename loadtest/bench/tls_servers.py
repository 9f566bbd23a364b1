"""The TLS servers that bench_tls compares, with the same certificates; and those certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loadtest.bench.servers import Gateway, Server, Unavailable, wait_for_port
from loadtest.free_ports import free_ports

P256, RSA_2048, MUTUAL = "P-256", "RSA-2048", "mutual"
KINDS = (P256, RSA_2048, MUTUAL)
"""What a server has a port for. MUTUAL is P-256 with a client certificate that is required."""
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, and of whom it has certified: P256, RSA_2048, "device"."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    def chain(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}-key.pem"


def make_certificates(directory: Path) -> Certificates:
    """All of them, for a day."""
    made = Certificates(directory)
    root = ec.generate_private_key(ec.SECP256R1())
    _write(made.authority, None, _certify("bench authority", root, root, authority=True))
    for name, key in ((P256, ec.generate_private_key(ec.SECP256R1())), (RSA_2048, rsa.generate_private_key(65537, 2048)),
                      ("device", ec.generate_private_key(ec.SECP256R1()))):  # fmt: skip
        use = ExtendedKeyUsageOID.CLIENT_AUTH if name == "device" else ExtendedKeyUsageOID.SERVER_AUTH
        subject = "bench-device" if name == "device" else "localhost"
        _write(made.chain(name), made.key(name), _certify(subject, key, root, use), key)
    return made


def _certify(
    name: str,
    key: _Key,
    issuer: ec.EllipticCurvePrivateKey,
    use: x509.ObjectIdentifier | None = None,
    *,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
    )
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _write(chain: Path, path: Path | None, certificate: x509.Certificate, key: _Key | None = None) -> None:
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    if path is not None and key is not None:
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class TlsServer(Server):
    """A server with a port for each of KINDS, and a plain one."""

    ports: dict[str, int]

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        super().__init__(directory)
        self.certificates = certificates

    def cpu_of_all(self) -> float:
        """Seconds so far of all threads, to the nanosecond where the kernel counts so."""
        try:
            tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        except OSError:
            return self.cpu()


class Nginx(TlsServer):
    """Debian's nginx: one process, TLS 1.3, tickets, early data."""

    name = "nginx"

    def start(self) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Unavailable("skipped: no nginx")
        plain, *ports = free_ports(1 + len(KINDS))
        self.port = plain
        self.ports = dict(zip(KINDS, ports, strict=True))
        config = self.directory / "nginx.conf"
        config.write_text(self.settings(plain))
        log = self.directory / "nginx.log"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [program, "-p", self.directory, "-c", config, "-e", "stderr"], stdout=output, stderr=output, text=True
            )
        try:
            wait_for_port(plain, self.process, log)
        except RuntimeError as why:
            self.stop()
            raise Unavailable(f"skipped: nginx did not start: {str(why).strip().splitlines()[-1]}") from None

    def settings(self, plain: int) -> str:
        """Its configuration file."""
        listed = f"  server {{ listen 127.0.0.1:{plain}; return 204; }}\n"
        for kind, port in self.ports.items():
            name = P256 if kind == MUTUAL else kind
            mutual = f"ssl_client_certificate {self.certificates.authority}; ssl_verify_client on;"
            listed += f"""  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {self.certificates.chain(name)};
    ssl_certificate_key {self.certificates.key(name)};
    {mutual if kind == MUTUAL else "ssl_early_data on;"}
    return 204;
  }}
"""
        paths = "".join(
            f"  {kind}_temp_path {self.directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""daemon off;
master_process off;
pid {self.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  ssl_protocols TLSv1.3;
  ssl_ecdh_curve X25519:P-256;
{paths}{listed}}}
"""

    def version(self) -> str:
        """Name and version, with that of its OpenSSL."""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        said = subprocess.run([program, "-V"], check=False, capture_output=True, text=True).stderr.splitlines()
        return ", ".join(line.removeprefix("nginx version: ") for line in said[:2])


class TlsGateway(TlsServer, Gateway):
    """accessgw with the engine of the package cryptography."""

    name = "pure"
    engine = "pure"
    twins = "pure"
    """ACCESSGW_ACCEL: what the records and the codecs run on."""

    def start(self) -> None:
        self.ports = dict(zip(KINDS, free_ports(len(KINDS)), strict=True))
        os.environ["ACCESSGW_ACCEL"] = self.twins
        try:
            Gateway.start(self)
        except RuntimeError as why:
            raise Unavailable(f"skipped: it did not start: {str(why).strip().splitlines()[-1]}") from None
        finally:
            del os.environ["ACCESSGW_ACCEL"]
        said = self.backends()["tls"]
        if not said.startswith(self.expected):
            self.stop()
            raise Unavailable(f"skipped: hand-shakes are made by {said}")

    expected = "pyopenssl"
    """How the gateway names who makes its hand-shakes."""

    def settings(self, tls_port: int) -> str:
        listeners = ""
        for kind, port in self.ports.items():
            name = P256 if kind == MUTUAL else kind
            mutual = f'client_certificates = "require"\nclient_ca = "{self.certificates.authority}"'
            listeners += f"""
[[listeners]]
name = "bench-{kind}"
transport = "tls"
address = "127.0.0.1"
port = {port}
protocols = ["mmtp/1", "http/1.1"]
{mutual if kind == MUTUAL else "early_data = 16384"}

[[listeners.certificates]]
chain = "{self.certificates.chain(name)}"
key = "{self.certificates.key(name)}"
"""
        text = Gateway.settings(self, tls_port).replace(
            "[limits]", "[limits]\nhello_timeout = 300.0\nhandshake_timeout = 60.0"
        )
        return text + listeners + f'\n[tls]\nengine = "{self.engine}"\n'


class NativeTlsGateway(TlsGateway):
    """accessgw with the C engine on the system's OpenSSL."""

    name = "native"
    engine = "native"
    twins = "auto"
    expected = "native"


class StockTwistedTls(TlsServer):
    """Twisted as its manual shows TLS."""

    name = "stock Twisted"

    def start(self) -> None:
        chain, key = self.certificates.chain(P256), self.certificates.key(P256)
        self._launch(sys.executable, "-m", "loadtest.bench.stock_twisted_tls", chain, key)
        self.ports = {P256: self.port}
