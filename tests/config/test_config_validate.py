from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from accessgw.config import ConfigError, loads, syntax
from tests.interop.programs import run

LISTENER = '[[listeners]]\nname = "plain"\nport = 7080\n'
CLUSTER = '[[clusters]]\nname = "demo"\nendpoints = ["http://127.0.0.1:1"]\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return str(caught.value).splitlines()


def test_a_gateway_needs_a_listener() -> None:
    assert problems("") == ["listeners: expected at least one listener, got none"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LISTENER.replace("7080", "7081"), 'listeners[1].name: "plain" is the name of listeners[0] already'),
        ('[[listeners]]\nname = "b"\nport = 7080', "listeners[1].port: 127.0.0.1:7080 is taken by listeners[0]"),
        ("[control]\nport = 7080", "control.port: 127.0.0.1:7080 is taken by listeners[0]"),
        ('[[listeners]]\nname = "b c"', "listeners[1].name: expected letters, digits, `_`, `-` and `.`, got \"b c\""),
        ('[[listeners]]\nname = "u"\ntransport = "unix"', "listeners[1].path: required for transport unix, expected a path, got nothing"),
        ('[[listeners]]\nname = "u"\npath = "/x"', "listeners[1].path: only transport unix has a path, this is tcp"),
        ('[[listeners]]\nname = "u"\naddress = "localhost"', 'listeners[1].address: expected an IPv4 or IPv6 address, got "localhost"'),
        ('[[listeners]]\nname = "u"\nclient_certificates = "require"', 'listeners[1].client_certificates: only transport tls has client certificates, this is tcp'),
        ('[[listeners]]\nname = "u"\ntransport = "tls"\nclient_certificates = "request"', 'listeners[1].client_ca: required for client_certificates "request", expected a PEM file, got nothing'),
        ('[[listeners]]\nname = "u"\ntransport = "tls"\nclient_certificates = "require"\nclient_ca = "/absent.pem"', 'listeners[1].client_ca: cannot read "/absent.pem": No such file or directory'),
        ('[[listeners]]\nname = "u"\ntransport = "tls"\nclient_certificates = "require"\nclient_ca = "/dev/null"', 'listeners[1].client_ca: expected PEM certificates of CAs, OpenSSL says: NO_CERTIFICATE_OR_CRL_FOUND'),
        ('[[listeners]]\nname = "u"\ntransport = "tls"\nclient_ca = "x.pem"', 'listeners[1].client_ca: is used with client_certificates "request" or "require" only'),
        ('[[listeners]]\nname = "u"\nwebsocket_origins = ["https://a.example"]', 'listeners[1].websocket_origins: WebSockets need the protocol "http/1.1", which is not served here'),
        ('[[listeners]]\nname = "u"\nprotocols = ["http/1.1"]\nwebsocket_origins = ["null", "https://a.example:8443", "https://a.example/"]', 'listeners[1].websocket_origins[2]: expected an origin such as "https://app.example.com", without a path, got "https://a.example/"'),
        ('[[listeners]]\nname = "u"\ntls_minimum = "1.1"', 'listeners[1].tls_minimum: expected one of "1.2", "1.3", got "1.1"'),
        ('[[listeners]]\nname = "u"\nprotocols = ["h2"]', 'listeners[1].protocols[0]: expected one of "mmtp/1", "mqtt", "http/1.1", got "h2"'),
        ('[[listeners]]\nname = "u"\nprotocols = []', "listeners[1].protocols: expected at least one protocol, got none"),
        ('[[listeners]]\nname = "u"\nproxy_protocol_from = ["10.0.0.1/8"]',
         "listeners[1].proxy_protocol_from[0]: expected a network such as 10.0.0.0/8: 10.0.0.1/8 has host bits set"),
        ('[[listeners]]\nname = "u"\nproxy_protocol_from = ["unix"]',
         "listeners[1].proxy_protocol_from[0]: expected a network such as 10.0.0.0/8: 'unix' does not appear to be an IPv4 or IPv6 network"),
        ('[[listeners]]\nname = "u"\ncertificates = [{chain = "a", key = "b"}]',
         "listeners[1].certificates: only transport tls has certificates, this is tcp"),
        ('[[authenticators]]\nkind = "static"', "authenticators[0].tokens: required for kind static, expected at least one token, got none"),
        ('[[authenticators]]\nkind = "static"\ntokens = [{token = ""}]', "authenticators[0].tokens[0].token: expected a token, got an empty one"),
        ('[[authenticators]]\nkind = "jwt"', "authenticators[0].keys: required for kind jwt, expected keys, jwks_file or secret, got none of them"),
        ('[[authenticators]]\nkind = "jwt"\nkeys = {a = "/no/such"}', 'authenticators[0].keys.a: cannot read "/no/such": No such file or directory'),
        ('[[authenticators]]\nkind = "jwt"\njwks_file = "/no/such"', 'authenticators[0].jwks_file: cannot read "/no/such": No such file or directory'),
        ('[[authenticators]]\nkind = "jwt"\nsecret = "s"', "authenticators[0].secret: is used by HS256, HS384 and HS512 only, and algorithms has none of them"),
        ('[[control.tokens]]\ntoken = "a"\nroles = []', 'control.tokens[0].roles: expected some of "push", "read", "operate", got none'),
        ('[[control.tokens]]\ntoken = ""\nroles = ["read"]', "control.tokens[0].token: expected a token, got an empty one"),
        ('control = {tokens = [{token = "a", roles = ["read"]}, {token = "a", roles = ["push"]}]}',
         "control.tokens[1].token: is the same as control.tokens[0].token"),
        ('[[clusters]]\nname = "x"', "clusters[0].endpoints: expected at least one endpoint, or dns, got neither"),
        (CLUSTER + CLUSTER, 'clusters[1].name: "demo" is the name of clusters[0] already'),
        (CLUSTER.replace("127.0.0.1", "example.com"),
         'clusters[0].endpoints[0]: expected "http://address:port" or "https://address:port" with an IP'
         ' address (names go into dns), or "unix:/path", got "http://example.com:1"'),
        ('[[clusters]]\nname = "x"\ndns = "example.com"', 'clusters[0].dns: expected "host:port" or "https://host:port", got "example.com"'),
        (CLUSTER + 'health = {path = "ok"}', 'clusters[0].health.path: expected a path that begins with "/", got "ok"'),
        ('[[routes]]\noperation = "a"\ncluster = "x"', 'routes[0].cluster: unknown cluster "x"'),
        (CLUSTER + '[[routes]]\noperation = "a"\ncluster = "demmo"', 'routes[0].cluster: unknown cluster "demmo", did you mean "demo"?'),
        (CLUSTER + '[[routes]]\ncluster = "demo"', "routes[0]: expected exactly one of operation and path, got neither"),
        (CLUSTER + '[[routes]]\noperation = "a"\npath = "/"\ncluster = "demo"', "routes[0]: expected exactly one of operation and path, got both"),
        (CLUSTER + '[[routes]]\noperation = "a.*.b"\ncluster = "demo"',
         'routes[0].operation: expected a name such as "payments.pay", or one that ends in "*", got "a.*.b"'),
        (CLUSTER + '[[routes]]\noperation = "gw.time"\ncluster = "demo"',
         "routes[0].operation: operations that begin with gw. are answered by the gateway itself"),
        (CLUSTER + '[[routes]]\npath = "api"\ncluster = "demo"', 'routes[0].path: expected a prefix that begins with "/", got "api"'),
        (CLUSTER + '[[routes]]\noperation = "a"\nmethods = ["GET"]\ncluster = "demo"', "routes[0].methods: belongs to path routes only"),
        (CLUSTER + '[[routes]]\noperation = "a"\nbodies = "b"\ncluster = "demo"', "routes[0].bodies: belongs to path routes only"),
        (CLUSTER + '[[routes]]\npath = "/a"\nsecret = true\nbodies = "b"\ncluster = "demo"', "routes[0].bodies: a secret route uses no dictionaries"),
        (CLUSTER + '[[routes]]\npath = "/a"\nbodies_app = "b"\ncluster = "demo"', "routes[0].bodies_app: says nothing without bodies"),
        (CLUSTER + '[[routes]]\noperation = "a"\ntimeout = -1\ncluster = "demo"', "routes[0].timeout: expected a number greater than 0, got -1"),
        (CLUSTER + '[[routes]]\noperation = "a"\nupstream_path = "/{op}"\ncluster = "demo"',
         'routes[0].upstream_path: expected {operation}, {device}, {user}, {app} or {header:name}, got "{op}"'),
        (CLUSTER + '[[routes]]\noperation = "a"\nwhen = {os = "ios"}\ncluster = "demo"',
         "routes[0].when.os: unknown condition, expected app, app_version, user, header:NAME or attribute:NAME"),
        (CLUSTER + '[[routes]]\noperation = "a"\nwhen = {app_version = "new"}\ncluster = "demo"',
         'routes[0].when.app_version: expected a version such as >=2.1, got "new"'),
        ('[webhook]\nurl = "ftp://x"', 'webhook.url: expected an "http://" or "https://" URL, got "ftp://x"'),
        (
            '[webhook]\nurl = "https://me:secret@x/"',
            "webhook.url: expected no user name or password in the URL, they would go out as a host",
        ),
        ('[webhook]\nurl = "http://x"\ntls = {ca = "/x"}', "webhook.tls: says nothing without https://"),
        ('[webhook]\nurl = "https://x"\ntls = {server_name = "hooks..example"}',
         'webhook.tls.server_name: expected the name or address of a server, got "hooks..example"'),
        ('[webhook]\nurl = "https://x"\ntls = {key = "/no/such"}', 'webhook.tls.key: cannot read "/no/such": No such file or directory'),
        (CLUSTER.replace("http", "https") + 'tls = {ca = "/dev/null"}', "clusters[0].tls.ca: expected PEM certificates of CAs,"
         " OpenSSL says: NO_CERTIFICATE_OR_CRL_FOUND"),
        ('[limits]\nidle_timeout = 3', "limits.idle_timeout: expected more than mmtp.heartbeat_hint (240), got 3"),
        ('[limits]\nhello_timeout = 360', "limits.idle_timeout: expected more than limits.hello_timeout (360), got 360"),
        ('[calls]\nclaim_horizon = 3', "calls.claim_horizon: expected at least calls.answer_horizon (60), got 3"),
        ('[pushes]\nmax_payload = 262144', "pushes.max_payload: expected at most mmtp.max_frame less 1024 (261120), got 262144"),
        ('[drain]\nalternate = "gw2"', 'drain.alternate: expected "host:port", got "gw2"'),
    ],
)  # fmt: skip
def test_each_problem_has_its_line(text: str, line: str) -> None:
    assert line in problems(LISTENER + text if text.startswith("[") else text + "\n" + LISTENER)


def test_an_algorithm_must_be_known_and_have_its_secret() -> None:
    text = LISTENER + '[[authenticators]]\nkind = "jwt"\njwks_file = "/etc/hostname"\nalgorithms = ["HS256", "none"]\n'
    first, second = problems(text)
    assert first == "authenticators[0].algorithms[0]: HS256 needs secret, which is not set"
    assert second.startswith("authenticators[0].algorithms[1]: expected one of HS256, ")


def certificate(tmp_path: Path, name: str) -> tuple[Path, Path]:
    chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
    signed = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(private, SHA256())
    chain.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, key


def test_certificates_are_read_and_must_fit_their_key(tmp_path: Path) -> None:
    def listener(*pairs: tuple[Path, Path]) -> str:
        tables = "".join(f'[[listeners.certificates]]\nchain = "{c}"\nkey = "{k}"\n' for c, k in pairs)
        return f'[[listeners]]\nname = "tls"\ntransport = "tls"\nport = 1\n{tables}'

    one, other = certificate(tmp_path, "one"), certificate(tmp_path, "other")
    assert loads(listener(one)).listeners[0].certificates[0].chain == str(one[0])
    (mismatch,) = problems(listener((one[0], other[1])))
    assert mismatch.startswith("listeners[0].certificates[0]: expected a PEM certificate chain and its unencrypted key")
    assert f"{one[0]} and {other[1]}: KEY_VALUES_MISMATCH" in mismatch
    (missing,) = problems(listener((tmp_path / "none.pem", one[1])))
    assert missing.startswith(f'listeners[0].certificates[0].chain: cannot read "{tmp_path}/none.pem": No such file')
    assert "listeners[0].certificates[1].names" in problems(listener(one, other))[0]


def test_a_certificate_of_sm2_names_the_profile_that_it_needs(tmp_path: Path) -> None:
    chain, key = tmp_path / "sm2.pem", tmp_path / "sm2.key"
    run("openssl", "genpkey", "-algorithm", "SM2", "-out", key)
    made = run("openssl", "req", "-x509", "-new", "-key", key, "-sm3", "-subj", "/CN=localhost", "-out", chain)
    if made.returncode:
        pytest.skip(f"openssl makes no SM2 certificate here: {made.stderr.decode()[-200:]}")
    text = (
        f'[[listeners]]\nname = "tls"\ntransport = "tls"\nport = 1\n%s[[listeners.certificates]]\nchain = "{chain}"\n'
    )
    text += f'key = "{key}"\n'
    (problem,) = problems(text % "")
    assert problem.startswith("listeners[0].certificates[0]: ")
    assert problem.endswith('UNKNOWN_CERTIFICATE_TYPE (a certificate of SM2 needs profile = "sm")')
    assert loads(text % 'profile = "sm"\n').listeners[0].profile == "sm"


def test_an_encrypted_key_toward_others_is_named(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "one")
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    own = f'certificate = "{chain}"\nkey = "{key}"\n'
    bridge = '[[mqtt.bridges]]\nname = "b"\naddress = "other:8883"\ntls = true\ntopics = [{filter = "a"}]\n'
    (service,) = problems(LISTENER + CLUSTER.replace("http:", "https:") + f"[clusters.tls]\n{own}")
    (broker,) = problems(LISTENER + bridge + own)
    for problem, place in ((service, "clusters[0].tls.certificate"), (broker, "mqtt.bridges[0].certificate")):
        assert problem.startswith(f"{place}: expected a PEM certificate")
        assert problem.endswith(f"OpenSSL says of {chain} and {key}: the key is encrypted")


@pytest.mark.parametrize("text", ["http://127.0.0.1:7800", "http://[::1]:80", "http://10.0.0.1", "unix:/run/a.sock"])
def test_endpoints(text: str) -> None:
    assert syntax.is_endpoint(text)


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:1", "https://127.0.0.1:0", "https://localhost:1", "ftp://127.0.0.1:1", "http://127.0.0.1:0", "http://127.0.0.1:99999", "http://127.0.0.1:1/x",
     "unix:", "unix:relative", "http://[::1", "http://:80", "http://127.0.0.1:²"],
)  # fmt: skip
def test_no_endpoints(text: str) -> None:
    assert not syntax.is_endpoint(text)


@pytest.mark.parametrize(
    ("template", "unknown"),
    [
        ("/{operation}", ""),
        ("/v1/{header:x-shop}/{user}", ""),
        ("/{Header:x}", "{Header:x}"),
        ("/{a", "{"),
        ("/}", "}"),
    ],
)
def test_path_templates(template: str, unknown: str) -> None:
    assert syntax.unknown_placeholder(template) == unknown
