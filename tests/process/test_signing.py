"""Secrets of the real daemon: what they sign, how they change without a gap, and that they never show."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Sequence

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.process.daemon import SMALL, Daemon, Home, until
from tests.process.raw import RawReceiver, Request

KEYS = {name: bytes(range(start, start + 24)) for name, start in (("old", 1), ("new", 60), ("file", 200))}
SECRETS = {name: "whsec_" + base64.b64encode(key).decode() for name, key in KEYS.items()}
RETRY = {"kind": "fixed", "every": "100ms", "attempts": 1000, "jitter": 0}


def config(*names: str, more: str = "") -> str:
    listed = [SECRETS[name] for name in names if name != "file"]
    files = ["key"] if "file" in names else []
    queue = f"[queues.orders]\nsecrets = {json.dumps(listed)}\nsecret_files = {json.dumps(files)}\n"
    return f"{SMALL}{queue}{more}"


def reload(daemon: Daemon, home: Home, text: str, says: str) -> None:
    (home.folder / "wheeltimer.toml").write_text(text)
    before = len(daemon.log)
    daemon.signal(signal.SIGHUP)
    for _ in until():
        if "reloaded" in daemon.log[before:]:
            break
    assert says in daemon.log[before:]


def signers(request: Request) -> list[str]:
    """Whose signatures these are, in the order in which they stand."""
    headers = request.headers
    found = []
    for part in headers["webhook-signature"].split(" ") if "webhook-signature" in headers else []:
        for name, secret in SECRETS.items():
            try:
                Webhook(secret).verify(request.body, headers | {"webhook-signature": part}, json_parse=False)
            except WebhookVerificationError:
                continue
            found.append(name)
    return found


def shown(secrets: Sequence[str]) -> set[bytes]:
    """All the spellings of them that nobody may see."""
    spellings: set[bytes] = set()
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        spellings |= {secret.removeprefix("whsec_").encode(), key, key.hex().encode(), repr(key).encode()}
    return spellings


def test_secrets_change_without_a_gap_and_never_show(home: Home) -> None:
    """One task, never answered with success: each of its attempts is signed by what holds just then."""
    (home.folder / "key").write_text(SECRETS["file"] + "\n")
    said = b""
    with RawReceiver() as receiver:
        daemon = home.start(config=config("old"))
        with daemon.connect() as client:
            target = "/500/signed"
            client.done(
                "schedule", id="订单 42", queue="orders", url=receiver.url(target), body={"order": 42},
                retry=RETRY, on_dead=receiver.url("/200/hook"), expires_in="1h",
            )  # fmt: skip
            client.done("schedule", id="plain", url=receiver.url("/200/plain"))
            assert signers(receiver.wait("/200/plain")[0]) == []
            assert signers(receiver.wait(target)[0]) == ["old"]
            for names, says in (
                (("new", "old"), "settings reloaded"),
                (("new",), "settings reloaded"),
                (("new", "file"), "settings reloaded"),
                ((), "settings reloaded"),
                (("new",), "settings reloaded"),
            ):
                reload(daemon, home, config(*names), says)
                # One may be under way that began before; the one after the next began after it.
                count = len(receiver.of(target))
                assert signers(receiver.wait(target, count + 2)[-1]) == list(names)
            for bad in (
                config("old", more="colour = 1\n"), config("old").replace("= ", "= [", 1),
                config("old").replace(SECRETS["old"], SECRETS["old"] + "!"),
                config("old", more=f"{SECRETS['old']} = 1\n"), config("old", more=f"[{SECRETS['old']}\n"),
            ):  # fmt: skip
                reload(daemon, home, bad, "settings not reloaded, the old ones stay")
                count = len(receiver.of(target))
                assert signers(receiver.wait(target, count + 2)[-1]) == ["new"]
            assert len({each.headers["webhook-id"] for each in receiver.of(target)}) == 1

            client.done("finish", id="plain")
            for op, fields in (
                ("hello", {}), ("stats", {}), ("list", {}), ("get", {"id": "订单 42", "queue": "orders"}),
                ("schedule", {"url": "http://x/", "retry": "nobody"}), ("forecast", {}), ("shrug", {}),
            ):  # fmt: skip
                said += json.dumps(client.ask(op, **fields)).encode()
            client.done("reschedule", id="订单 42", queue="orders", url=receiver.url("/410/signed"))
            (hook,) = receiver.wait("/200/hook")
            assert signers(hook) == ["new"], "a hook is a callback of the same queue"
        said += daemon.stop().log.encode()
        again = home.start(config=config("new"))
        with again.connect() as client:
            client.done("redrive", id="订单 42", queue="orders")
            assert signers(receiver.wait("/410/signed", 2)[1]) == ["new"]
        said += again.stop().log.encode()
        came = b"".join(each.head + each.body for each in receiver.requests)
    assert len(said) > 1000
    for spelling in shown(list(SECRETS.values())):
        assert spelling not in said, "in a reply or a log"
        assert spelling not in came, "in a callback"
        for path in home.data.rglob("*"):
            assert not path.is_file() or spelling not in path.read_bytes(), f"in {path.name}"


@pytest.mark.parametrize("how", ["listed", "file"])
def test_a_start_that_is_refused_shows_no_secret(home: Home, how: str) -> None:
    broken = SECRETS["old"][:-6]
    (home.folder / "key").write_text(broken)
    text = config("file" if how == "file" else "old").replace(SECRETS["old"], broken)
    ended = home.refuse(config=text)
    assert ended.code == 78
    assert "secret" in ended.log
    assert broken.removeprefix("whsec_") not in ended.log
    assert broken.removeprefix("whsec_")[:12] not in ended.log
