"""``journal check`` and ``dump`` on files of the real daemon's kind: output, filters, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
import trio

from tests.cli.test_main import one_line, run
from tests.journal.worlds import Clock, open_journal, put, running
from wheeltimer.core import records as r
from wheeltimer.core.task import Task, key_of
from wheeltimer.journal import Disk
from wheeltimer.protocol.task_view import Attempt

NOON = 1_900_000_000_000
SEGMENT_1 = "0000000001.segment"


def task(body: bytes | None = b'{"order":42}', body_as: str = "") -> Task:
    return Task(
        url="http://x/", method="POST", body=body, body_as=body_as, delay=1000, created_ms=NOON, lsn=1,
        deadline_ns=5, meta=b'{"who":"me"}', content=b"\x01\xff" if body is None else None,
    )  # fmt: skip


RECORDS: list[r.Written] = [
    r.Scheduled(key_of("default", "order-42"), NOON, task()),
    r.Scheduled(key_of("mail", "letter/1"), NOON + 1, task("grüß".encode(), "text")),
    r.Scheduled(key_of("mail", "raw"), NOON + 2, task(b"\xff\x00", "base64")),
    r.Attempted(
        key_of("default", "order-42"), NOON + 3, Attempt(1, 1, NOON + 1000, 3, 12, "failed", 500),
        1, 0, NOON + 5000, 77,
    ),
    r.Rescheduled(key_of("default", "order-42"), NOON + 4, task(None)),
    r.Stopping(key_of("default", "order-42"), NOON + 5, 2, b'{"paid":true}'),
    r.Ended(key_of("default", "order-42"), NOON + 6, 2, 3, 1),
    r.Paused("mail", NOON + 7, True),
    r.Forgotten([key_of("default", "order-42"), key_of("mail", "raw")], NOON + 8),
    r.Carried(key_of("mail", "letter/1"), NOON + 9, task(b"[1]")),
    r.Carried("mail", NOON + 10, None),
    r.Counted(NOON + 11, 5, 2, 1),
]  # fmt: skip
KINDS = [
    "scheduled", "scheduled", "scheduled", "attempted", "rescheduled", "stopping", "ended", "paused",
    "forgotten", "carried", "carried", "counted",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal with one record of every kind, each in its own frame, and a trim."""

    async def main() -> None:
        journal = open_journal(Disk(), Clock(), path=tmp_path, segment_bytes=16384)
        async with running(journal):
            for record in RECORDS:
                await journal.wait_durable(put(journal, r.encode(record)))
            assert journal.trim(1)

    trio.run(main)
    return tmp_path


def dumped(folder: Path, *args: str) -> list[dict[str, object]]:
    result = run("journal", "dump", str(folder), *args)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_dump_has_a_line_for_every_lsn_and_all_that_its_record_holds(folder: Path) -> None:
    lines = dumped(folder)
    assert [line["lsn"] for line in lines] == list(range(1, len(RECORDS) + 2))
    assert [line["kind"] for line in lines] == [*KINDS, "trimmed"]
    assert [line["time"] for line in lines[:-1]] == [record.time_ms for record in RECORDS]
    first = lines[0]
    assert first["at"] == "2030-03-17T17:46:40.000Z"
    assert (first["queue"], first["id"]) == ("default", "order-42")
    assert first["task"] == {
        "version": 1, "state": "scheduled", "created": NOON, "due": "2030-03-17T17:46:41.000Z",
        "next": "2030-03-17T17:46:41.000Z", "url": "http://x/", "delay": 1000, "body": {"order": 42},
        "meta": {"who": "me"}, "lsn": 1, "deadline_ns": 5,
    }  # fmt: skip
    bodies = [line["task"] for line in lines[1:3]]
    assert [body.get("body_text") for body in bodies] == ["grüß", None]  # type: ignore[attr-defined]
    assert bodies[1]["body_base64"] == b64encode(b"\xff\x00").decode()  # type: ignore[index]
    assert lines[3]["attempt"] == {
        "attempt": 1, "version": 1, "started": NOON + 1000, "late_ms": 3, "ms": 12, "outcome": "failed",
        "status": 500,
    }  # fmt: skip
    assert lines[4]["task"]["content"] == "01ff"  # type: ignore[index]
    assert (lines[5]["stop"], lines[5]["reply"]) == ("finish", {"paid": True})
    assert lines[6]["state"] == "done"
    assert lines[7] == {
        "lsn": 8, "time": NOON + 7, "at": lines[7]["at"], "kind": "paused", "queue": "mail", "paused": True,
    }  # fmt: skip
    assert lines[8]["tasks"] == [{"queue": "default", "id": "order-42"}, {"queue": "mail", "id": "raw"}]
    assert (lines[9]["id"], lines[10].get("id")) == ("letter/1", None)
    assert (lines[11]["succeeded"], lines[11].get("queue")) == (5, None)
    assert lines[12]["below"] == 1


def test_dump_filters(folder: Path) -> None:
    def lsns(*args: str) -> list[object]:
        return [line["lsn"] for line in dumped(folder, *args)]

    assert lsns("--id", "order-42") == [1, 4, 5, 6, 7, 9]
    assert lsns("--queue", "mail") == [2, 3, 8, 9, 10, 11]
    assert lsns("--queue", "mail", "--id", "order-42") == []
    assert lsns("--kind", "ended", "--kind", "trimmed") == [7, 13]
    assert lsns("--since", str(NOON + 6), "--until", str(NOON + 8)) == [7, 8, 9]
    assert lsns("--until", "2030-03-17T17:46:40.001Z", "--id", "letter/1") == [2]
    assert lsns("--from-lsn", "10", "--queue", "mail") == [10, 11]
    assert lsns("--id", "nobody") == []


def test_dump_says_what_stands_before_a_damage(folder: Path) -> None:
    path = folder / SEGMENT_1
    data = bytearray(path.read_bytes())
    data[512 * 3 + 100] ^= 1  # the third frame
    path.write_bytes(data)
    result = run("journal", "dump", str(folder))
    assert result.exit_code == 65
    assert [json.loads(line)["lsn"] for line in result.stdout.splitlines()] == [1, 2]
    assert f"{path} at offset 1536 (lsn 3)" in result.stderr


@pytest.mark.parametrize("args", [("--since", "noon"), ("--kind", "odd"), ("--from-lsn", "0")], ids=" ".join)
def test_a_filter_that_cannot_be_meant_exits_2(folder: Path, args: tuple[str, ...]) -> None:
    result = run("journal", "dump", str(folder), *args)
    assert result.exit_code == 2
    assert args[0] in one_line(result)


@pytest.mark.parametrize("command", ["check", "dump", "repair"])
def test_a_folder_that_holds_no_journal_is_refused_and_stays_as_it_is(tmp_path: Path, command: str) -> None:
    """`repair` called an empty folder undamaged, and left a lock file in it."""
    result = run("journal", command, str(tmp_path))
    assert result.exit_code == 2
    assert "holds no journal" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_dump_into_a_pipe_that_closes_ends_without_a_word(folder: Path) -> None:
    command = f"{sys.executable} -m wheeltimer journal dump {folder} | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert done.returncode in (0, 1)


def test_check_prints_a_verdict_and_the_counts(folder: Path) -> None:
    result = run("journal", "check", str(folder))
    assert result.exit_code == 0
    assert "sound" in result.stdout
    assert "13 (lsn 1 to 13)" in result.stdout
    found = json.loads(run("journal", "check", str(folder), "--json").stdout)
    assert (found["ok"], found["verdict"], found["torn"]) == (True, "sound", None)
    assert found["kinds"] == {kind: KINDS.count(kind) for kind in KINDS}


def test_check_names_what_is_torn(folder: Path) -> None:
    path = folder / SEGMENT_1
    data = bytearray(path.read_bytes())
    end = 512 * 14
    data[end - 88 : end] = bytes(88)  # no marker
    data[end - 512 + 90] ^= 1
    path.write_bytes(data)
    found = json.loads(run("journal", "check", str(folder), "--json").stdout)
    assert (found["verdict"], found["torn"]["file"], found["torn"]["offset"]) == (
        "torn", SEGMENT_1, end - 512,
    )  # fmt: skip
    assert "never acknowledged" in run("journal", "check", str(folder)).stdout


def test_check_exits_65_with_file_offset_and_lsn(folder: Path) -> None:
    path = folder / SEGMENT_1
    data = bytearray(path.read_bytes())
    data[512 * 3 + 100] ^= 1
    path.write_bytes(data)
    result = run("journal", "check", str(folder))
    assert result.exit_code == 65
    assert f"{path} at offset 1536 (lsn 3)" in one_line(result)
    result = run("journal", "check", str(folder), "--json")
    assert result.exit_code == 65
    found = json.loads(result.stdout)
    assert (found["ok"], found["verdict"]) == (False, "damaged")
    assert (found["file"], found["offset"], found["lsn"]) == (SEGMENT_1, 1536, 3)


@pytest.mark.parametrize("command", ["check", "dump"])
def test_a_folder_that_is_not_there_exits_2(tmp_path: Path, command: str) -> None:
    result = run("journal", command, str(tmp_path / "nope"))
    assert result.exit_code == 2
    assert "nope" in one_line(result)


def test_every_kind_of_record_has_a_word() -> None:
    from wheeltimer.journal_tools.check import KINDS as WORDS

    assert {kind.__name__ for kind in r.Replayed.__args__} == set(WORDS)
