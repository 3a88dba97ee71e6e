"""The file's tables, addresses, and secrets that nobody sees."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.settings.files import SECRET, SHA256, TOKEN, load_toml, refused
from wheeltimer.errors import BadValue
from wheeltimer.protocol.retry import FixedRule
from wheeltimer.settings import (
    Address,
    Destination,
    Rate,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("127.0.0.1:8463", Address("tcp", "127.0.0.1", 8463), True),
        ("127.9.9.9:0", Address("tcp", "127.9.9.9", 0), True),
        ("localhost:1", Address("tcp", "localhost", 1), True),
        ("[::1]:65535", Address("tcp", "::1", 65535), True),
        ("tls:127.0.0.1:1", Address("tls", "127.0.0.1", 1), True),
        ("unix:/run/w.sock", Address("unix", path="/run/w.sock"), True),
        ("0.0.0.0:1", Address("tcp", "0.0.0.0", 1), False),
        ("[::]:1", Address("tcp", "::", 1), False),
        ("tls:[2001:db8::1]:1", Address("tls", "2001:db8::1", 1), False),
        ("10.0.0.1:1", Address("tcp", "10.0.0.1", 1), False),
        ("myhost:1", Address("tcp", "myhost", 1), False),
        ("localhost.evil.example:1", Address("tcp", "localhost.evil.example", 1), False),
    ],
)
def test_addresses(text: str, address: Address, local: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_local is local


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x",
        "127.0.0.1:1²", "::1:8463", "::", "[::1]", "a b:1", "tls:", "tls::1", "h:1:2",
        "unix:", "unix:" + "x" * 108,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_address(text)


@pytest.mark.parametrize("value", [8463, None, ["127.0.0.1:1"]])
def test_an_address_is_text(value: object) -> None:
    with pytest.raises(BadValue, match="HOST:PORT"):
        parse_address(value)


def test_paths_of_a_file_count_from_the_files_folder(tmp_path: Path) -> None:
    settings = load_toml(tmp_path, 'data_dir = "data"\nlisten = ["unix:s"]\n')
    assert settings.data_dir == tmp_path / "data"
    assert settings.listen[0].path == str(tmp_path / "s")
    assert settings.config_file == tmp_path / "wheeltimer.toml"


def test_the_contracts_example(tmp_path: Path) -> None:
    for name in ("server.pem", "server.key", "clients.pem"):
        (tmp_path / name).touch()
    settings = load_toml(
        tmp_path,
        f"""
        listen = ["127.0.0.1:8463"]
        allow_nets = ["10.20.0.0/16"]
        [limits]
        line_bytes_max = 131072
        tasks_max = 10_000_000
        [journal]
        segment_bytes = 67108864
        [retry.partner]
        kind = "list"
        delays = ["4m", "10m", "10m", "1h", "2h", "6h", "15h"]
        [queues.orders]
        retry = "partner"
        concurrency = 64
        rate = "100/s"
        final_statuses = [401]
        secrets = ["{SECRET}"]
        [destinations."https://partner.example"]
        window_max = 16
        rate = "20/s"
        [[tokens]]
        name = "billing"
        sha256 = "{SHA256}"
        scopes = ["produce", "read"]
        queues = ["orders", "billing-*"]
        tasks_max = 1_000_000
        [tls]
        cert = "server.pem"
        key = "server.key"
        client_ca = "clients.pem"
        """,
    )
    assert settings.queues["orders"].rate == Rate(100, 1000)
    assert settings.queues["orders"].final_statuses == (401,)
    assert settings.destinations["https://partner.example"] == Destination(window_max=16, rate=Rate(20, 1000))
    assert settings.tokens[0].sha256 == bytes.fromhex(SHA256)
    assert settings.tokens[0].queues == ("orders", "billing-*")
    assert settings.tls is not None
    assert settings.tls.client_ca == tmp_path / "clients.pem"


def test_retry_rules(tmp_path: Path) -> None:
    settings = load_toml(tmp_path, '[retry.a]\nkind = "fixed"\nevery = "5s"\nattempts = 3\n')
    assert settings.retry == {"a": FixedRule(every="5s", attempts=3)}
    for rule, named in (
        ('kind = "fixed"\nevery = "5s"\nattempts = 0', "attempts"),
        ('kind = "fixed"\nevery = "soon"\nattempts = 1', "every"),
        ('kind = "often"', "often"),
        ("every = 1", "kind"),
    ):
        message = refused(tmp_path, f"[retry.a]\n{rule}\n")
        assert message.startswith("retry.a in ")
        assert named in message
    assert "built-in" in refused(tmp_path, '[retry.none]\nkind = "fixed"\nevery = 1\nattempts = 1\n')
    assert "1 to 128" in refused(tmp_path, '[retry."a b"]\nkind = "fixed"\nevery = 1\nattempts = 1\n')


def test_a_queue_that_names_no_rule_there_is(tmp_path: Path) -> None:
    message = refused(tmp_path, '[queues.a]\nretry = "standart"\n')
    assert message.startswith("queues.a in ")
    assert "did you mean standard?" in message
    assert load_toml(tmp_path, '[queues.a]\nretry = "standard"\n').queues["a"].retry == "standard"


@pytest.mark.parametrize(
    "line",
    [
        "concurrency = 0", 'rate = "0/s"', 'rate = "1/d"', 'rate = "1"', "rate = 5", 'rate = "-1/s"',
        "final_statuses = [200]", "final_statuses = [600]", 'final_statuses = ["401"]',
    ],
)  # fmt: skip
def test_bad_values_of_a_queue(tmp_path: Path, line: str) -> None:
    assert refused(tmp_path, f"[queues.a]\n{line}\n").startswith(f"queues.a.{line.split(' ')[0]} in ")


def test_secrets_from_the_file_and_from_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    settings = load_toml(tmp_path, f'[queues.a]\nsecrets = ["{SECRET}"]\nsecret_files = ["key"]\n')
    assert len(settings.queues["a"].signing_keys[0]) == 24
    assert settings.queues["a"].signing_keys[0] == settings.queues["a"].signing_keys[1]


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_hunter2", "whsec_aHVudGVyMg==", 5])
def test_a_secret_is_never_shown(tmp_path: Path, secret: object) -> None:
    (tmp_path / "key").write_text(str(secret))
    shown = f'"{secret}"' if isinstance(secret, str) else secret
    quoted = f'"{secret}"'
    for line in (
        f"secrets = {{ a = {shown} }}", f"secret = {shown}", f"{quoted} = 1", f"retry = {quoted}",
        f"rate = {quoted}", f"[retry.{quoted}]\nkind = 1", f"[destinations.{quoted}]", f"[{quoted}]",
    ):  # fmt: skip
        message = refused(tmp_path, f"[queues.a]\n{line}\n")
        assert "whsec_hunter2" not in message
        assert "aHVudGVyMg" not in message
    for line in (f"secrets = [{shown}]", 'secret_files = ["key"]'):
        message = refused(tmp_path, f"[queues.a]\n{line}\n")
        assert "whsec_ and the base64 of 24 to 64 bytes" in message
        assert "hunter2" not in message
        assert "aHVudGVyMg" not in message


def test_a_good_secret_is_never_shown_either(tmp_path: Path) -> None:
    settings = load_toml(tmp_path, f'[queues.a]\nsecrets = ["{SECRET}"]\n')
    key = settings.queues["a"].signing_keys[0]
    for text in (repr(settings), str(settings)):
        assert SECRET[6:] not in text
        assert repr(key)[2:-1] not in text


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, '[queues.a]\nsecret_files = ["none"]\n')
    assert f"cannot read {tmp_path}/none" in message


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("https://Partner.Example", "https://partner.example"),
        ("HTTPS://a:443", "https://a"),
        ("http://a:80", "http://a"),
        ("http://a:443", "http://a:443"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
    ],
)
def test_a_destination_has_one_spelling(tmp_path: Path, given: str, canonical: str) -> None:
    settings = load_toml(tmp_path, f'[destinations."{given}"]\nwindow_max = 3\n')
    assert list(settings.destinations) == [canonical]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "ftp://a",
        "http://",
        "http://a/path",
        "http://u@a",
        "http://a?q",
        "http://a:x",
        "http://a/",
        "http://\u2603.example",
        "http://a b",
        "http://[v1.x]",
        "http://a:0",
        "http://a#f",
    ],
)
def test_what_is_no_destination_is_refused(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, f'[destinations."{name}"]\nwindow_max = 3\n')
    assert name in message
    assert "https://partner.example" in message


def test_one_destination_under_two_spellings_is_refused(tmp_path: Path) -> None:
    text = '[destinations."http://a"]\n[destinations."http://A:80"]\n'
    assert "twice" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("name", '""'), None),
        (("sha256", '"abc"'), "64 hex digits"),
        (("scopes", '["write"]'), "give produce, read or admin"),
        (("scopes", "[]"), "scopes is empty"),
        (("queues", '["a*b"]'), "queues"),
        (("queues", '["**"]'), "queues"),
        (("queues", '[""]'), "queues"),
        (("tasks_max", "0"), "tasks_max"),
    ],
)
def test_bad_tokens(tmp_path: Path, change: tuple[str, str], named: str | None) -> None:
    fields = {"name": '"a"', "sha256": f'"{SHA256}"', "scopes": '["read"]'} | dict([change])
    text = "[[tokens]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())
    message = refused(tmp_path, text)
    assert "tokens[1]" in message
    if named is not None:
        assert named in message


def test_two_tokens_that_are_one_are_refused(tmp_path: Path) -> None:
    assert "twice" in refused(tmp_path, TOKEN + TOKEN.replace('"a"', '"b"'))
    other = hashlib.sha256(b"other").hexdigest()
    assert "twice" in refused(tmp_path, TOKEN + TOKEN.replace(SHA256, other))
    assert "two brackets" in refused(tmp_path, TOKEN.replace("[[tokens]]", "[tokens]"))


@pytest.mark.parametrize("url", ["http://proxy:3128", "https://me:secret@proxy", "http://[::1]:3128/"])
def test_egress_proxy_is_read(tmp_path: Path, url: str) -> None:
    assert load_toml(tmp_path, f'egress_proxy = "{url}"').egress_proxy == url


@pytest.mark.parametrize(
    "value",
    ['"secret:3128"', '"socks5://me:secret@proxy"', '"http://:secret@:1"', '"http://secret:99999"', '"http://secret/x"',
     '"http://secret:0"', '""', "3128", "[]"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    message = refused(tmp_path, f"egress_proxy = {value}")
    assert "egress_proxy" in message
    assert "write http://host:port" in message
    assert "secret" not in message
