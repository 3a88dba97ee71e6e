"""Starts that are refused, and starts after something went wrong: code, message, and nothing lost."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import SMALL, Connection, Home, until
from wheeltimer.journal.frame import HEADER_BYTES, SECTOR_BYTES
from wheeltimer.journal.segment import HEADER as SEGMENT_HEADER
from wheeltimer.journal.segment import headers

URL = "http://127.0.0.1:9/never"
MIN_READER = struct.Struct("<H")
MIN_READER_AT = 10  # magic (8), format (2)


# --- settings: 2, 78 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--no-such-flag", "--no-such-flag"),
        ("--tick=banana", "--tick"),
        ("--tick=0", "--tick"),
        ("--wheel-size=1000", "power of two"),
        ("--fsync=perhaps", "--fsync"),
        ("--concurrency=0", "--concurrency"),
        ("--max-tasks=many", "--max-tasks"),
        ("--allow-net=10.0.0.0/99", "--allow-net"),
        ("--listen=nowhere", "--listen"),
        ("--listen=127.0.0.1:99999", "--listen"),
        ("extra-argument", "extra-argument"),
    ],
)
def test_a_bad_flag_is_2(home: Home, flag: str, says: str) -> None:
    ended = home.refuse(flag)
    assert ended.code == 2, ended
    assert says in ended.log, ended
    assert not home.data.exists(), "a start that is refused for its flags touches nothing"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("tik = '10ms'\n", "tick"),  # also what was probably meant
        ("[limits]\nlines_max = 1\n", "limits.lines_max"),
        ("[limits]\nline_bytes_max = 1\n", "limits.line_bytes_max"),
        ("[limits]\npartial_line = 'soon'\n", "limits.partial_line"),
        ("[journal]\nsegment_bytes = 'big'\n", "journal.segment_bytes"),
        ("[queues.orders]\nretry = 'partner'\n", "partner"),
        ("[queues.'or ders']\nretry = 'none'\n", "or ders"),
        ("[limits\n", "is not TOML"),
        ("listen = ['0.0.0.0:0']\n", "--insecure"),
    ],
)
def test_a_bad_configuration_file_is_78(home: Home, config: str, says: str) -> None:
    ended = home.refuse(config=config, listen=())
    assert ended.code == 78, ended
    assert says in ended.log, ended
    assert not home.data.exists()


def test_a_configuration_file_that_is_not_there_is_78(home: Home) -> None:
    ended = home.refuse("--config", str(home.folder / "none.toml"))
    assert ended.code == 78, ended
    assert "none.toml" in ended.log


def test_a_bad_variable_is_78_and_an_unknown_one_too(home: Home) -> None:
    for name, value in (("WHEELTIMER_TICK", "banana"), ("WHEELTIMER_TIK", "10ms")):
        ended = home.refuse(env={name: value})
        assert ended.code == 78, ended
        assert name in ended.log, ended


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_an_open_listener_without_tokens_is_78(home: Home, listen: str) -> None:
    ended = home.refuse(listen=["127.0.0.1:0", listen])
    assert ended.code == 78, ended
    assert "token" in ended.log
    assert "--insecure" in ended.log


def test_an_open_listener_that_is_meant_opens(home: Home) -> None:
    daemon = home.start("--insecure", listen=["0.0.0.0:0"])
    port = daemon.listen[0].rpartition(":")[2]
    with Connection(f"127.0.0.1:{port}") as client:
        refusal = client.refused("schedule", url=URL)  # a private network, and now others can ask
        assert refusal["error"] == "target_blocked"
        assert "allow" in refusal["message"]
    daemon.stop()


# --- addresses: 71 -------------------------------------------------------------------------------------


def test_an_address_in_use_is_71_and_named(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = home.refuse(listen=["127.0.0.1:0", address])
    assert ended.code == 71, ended
    assert address in ended.log
    assert "in use" in ended.log


def test_an_address_of_another_machine_is_71(home: Home) -> None:
    ended = home.refuse("--insecure", listen=["192.0.2.1:8463"])
    assert ended.code == 71, ended
    assert "192.0.2.1:8463" in ended.log


def test_a_unix_socket_of_a_daemon_that_lives_is_71_and_of_a_dead_one_is_replaced(home: Home) -> None:
    path = f"unix:{home.folder}/socket"
    daemon = home.start(listen=[path])
    with Home(home.folder / "second") as second:
        second.folder.mkdir()
        ended = second.refuse(listen=[path])
        assert ended.code == 71, ended
        assert path in ended.log
    with daemon.connect() as client:
        client.done("ping")
    daemon.kill()
    again = home.start(listen=[path])
    with again.connect() as client:
        client.done("ping")
    again.stop()


def test_a_unix_socket_of_a_daemon_that_is_stopped_is_71_too(home: Home) -> None:
    """Its queue is full, so that who connects would wait for ever."""
    path = home.folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen(0)
        client.connect(str(path))
        ended = home.refuse(listen=[f"unix:{path}"])
    assert ended.code == 71, ended
    assert f"unix:{path} is in use" in ended.log


@pytest.mark.parametrize("what", ["file", "folder", "link", "datagrams"])
def test_something_else_where_the_unix_socket_should_be_is_71_and_left_alone(home: Home, what: str) -> None:
    path = home.folder / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        if what == "file":
            path.write_text("precious")
        elif what == "folder":
            path.mkdir()
        elif what == "link":
            path.symlink_to(home.folder / "nowhere")
        else:
            datagrams.bind(str(path))
        before = path.lstat()
        ended = home.refuse(listen=[f"unix:{path}"])
        assert ended.code == 71, ended
        (line,) = ended.log.splitlines()[-1:]
        assert f"listen unix:{path} " in line
        assert line.endswith("or choose another address"), line
        assert os.path.samestat(path.lstat(), before)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_file_of_the_journal_takes_the_place_of_a_standard_stream_that_is_closed(
    home: Home, number: int
) -> None:
    path = home.folder / "socket"
    close = ["bash", "-c", f'exec "$@" {number}>&-', "bash"]
    daemon = home.launch(listen=[f"unix:{path}"], wrap=close)
    daemon.listen = [f"unix:{path}"]
    for _ in until():
        assert daemon.process.poll() is None, daemon.log
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                break
    with daemon.connect() as client:
        client.done("schedule", id="a", url="http://127.0.0.1:9/", delay="1h")
    assert os.readlink(f"/proc/{daemon.pid}/fd/{number}") == os.devnull
    assert daemon.stop().code == 0


def test_a_daemon_whose_output_goes_to_a_full_disk_serves_all_the_same(home: Home) -> None:
    path = home.folder / "socket"
    daemon = home.launch(listen=[f"unix:{path}"], wrap=["bash", "-c", 'exec "$@" >/dev/full', "bash"])
    daemon.listen = [f"unix:{path}"]
    for _ in until():
        assert daemon.process.poll() is None, daemon.log
        if "standard output cannot be written: " in daemon.log:
            break
    with daemon.connect() as client:
        client.done("ping")
    assert "Traceback" not in daemon.stop().log


def test_too_few_descriptors_for_anything_are_78(home: Home) -> None:
    """With some more it serves, one attempt after the other if need be."""
    ended = home.refuse(wrap=["bash", "-c", 'ulimit -n 63; exec "$@"', "bash"])
    assert ended.code == 78, ended
    assert ended.log.startswith("wheeltimer: descriptors: 63 are allowed, 64 are needed")
    daemon = home.start(wrap=["bash", "-c", 'ulimit -n 64; exec "$@"', "bash"])
    with daemon.connect() as client:
        client.done("ping")
    daemon.stop()


# --- the folder: 73 ------------------------------------------------------------------------------------


def test_a_folder_in_use_is_73_and_names_the_holder(home: Home) -> None:
    daemon = home.start()
    ended = home.refuse()
    assert ended.code == 73, ended
    assert str(daemon.pid) in ended.log
    assert str(home.data) in ended.log
    with daemon.connect() as client:  # and the holder does not mind
        assert client.done("schedule", id="a", url=URL, delay="1h")["version"] == 1
    daemon.kill()
    assert home.start().tasks == 1, "the lock went with its holder"


def unwritable(folder: Path) -> Iterator[tuple[str, Path]]:
    """Places where no folder can be made, not even by root."""
    file = folder / "file"
    file.write_text("")
    yield "a file in the way", file
    yield "a file above it", file / "data"
    if Path("/sys/kernel").is_dir():
        yield "a file system that takes none", Path("/sys/kernel/wheeltimer-test")
    if os.geteuid() != 0:
        locked = folder / "locked"
        locked.mkdir(mode=0o500)
        yield "no permission", locked / "data"


def test_a_folder_that_cannot_be_written_is_73(home: Home) -> None:
    for why, place in unwritable(home.folder):
        home.data = place
        ended = home.refuse()
        assert ended.code == 73, (why, ended)
        assert str(place) in ended.log, (why, ended)


def test_the_folder_is_the_owners_alone(home: Home) -> None:
    home.start().stop()
    assert home.data.stat().st_mode & 0o777 == 0o700
    for path in home.data.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


# --- the journal: 65, torn -----------------------------------------------------------------------------


@pytest.fixture
def acknowledged(home: Home) -> Home:
    """A folder with 50 tasks, each acknowledged by itself, after kill -9."""
    daemon = home.start()
    with daemon.connect() as client:
        for number in range(50):
            client.done("schedule", id=f"task-{number}", url=URL, delay="1h", body=f"the body of {number}!")
    for _ in until():  # the last commit's marker is written right after its acknowledgement
        if len(home.segments()[0].read_bytes().rstrip(b"\0")) % SECTOR_BYTES > SECTOR_BYTES - HEADER_BYTES:
            break
    daemon.kill()
    return home


def check_all_there(home: Home, count: int = 50) -> None:
    daemon = home.start()
    assert daemon.tasks == count
    with daemon.connect() as client:
        for number in range(count):
            task = client.done("get", id=f"task-{number}")["task"]
            assert task["body"] == f"the body of {number}!"
    daemon.kill()


def refused_and_unchanged(home: Home, code: int) -> str:
    """What a start says that is refused for its journal, changes nothing and never opens its port."""
    before = {path.name: path.read_bytes() for path in home.segments()}
    socket_path = home.folder / "never"
    ended = home.refuse(listen=[f"unix:{socket_path}"])
    assert ended.code == code, ended
    assert not socket_path.exists(), "the port was opened"
    assert {path.name: path.read_bytes() for path in home.segments()} == before
    return ended.log


def test_a_journal_of_a_later_version_is_65_and_left_alone(acknowledged: Home) -> None:
    (segment,) = acknowledged.segments()
    original = segment.read_bytes()
    data = bytearray(original)
    assert MIN_READER.unpack_from(data, MIN_READER_AT) == (1,)
    MIN_READER.pack_into(data, MIN_READER_AT, 2)
    crc_at = SEGMENT_HEADER.size - 4
    struct.pack_into("<I", data, crc_at, zlib.crc32(data[:crc_at]))
    segment.write_bytes(data)
    log = refused_and_unchanged(acknowledged, 65)
    assert "later version" in log
    assert str(segment) in log
    segment.write_bytes(original)
    check_all_there(acknowledged)


@pytest.mark.parametrize("flipped", ["the body of 20!", "task-0", "task-48"])
def test_a_flipped_bit_in_what_was_acknowledged_is_65(acknowledged: Home, flipped: str) -> None:
    """Never served without a word, never skipped."""
    (segment,) = acknowledged.segments()
    data = bytearray(segment.read_bytes())
    at = data.index(flipped.encode())
    data[at] ^= 1
    segment.write_bytes(data)
    log = refused_and_unchanged(acknowledged, 65)
    frame_at = max(offset for offset, _ in headers(bytes(data), len(data.rstrip(b"\0"))) if offset <= at)
    assert f"{segment} at offset {frame_at}" in log, log
    assert f"wheeltimer journal repair {acknowledged.data}" in log, log
    data[at] ^= 1
    segment.write_bytes(data)
    check_all_there(acknowledged)


def test_a_bit_flipped_in_the_last_commit_is_65_too(acknowledged: Home) -> None:
    """Its marker says that it was on disk: without that it would look torn and be lost in silence."""
    (segment,) = acknowledged.segments()
    data = bytearray(segment.read_bytes())
    data[data.index(b"task-49")] ^= 1
    segment.write_bytes(data)
    refused_and_unchanged(acknowledged, 65)


def test_a_segment_that_is_missing_is_65(home: Home) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        while len(home.segments()) < 3:
            client.send(
                *({"op": "schedule", "url": URL, "delay": "1h", "body": "x" * 500} for _ in range(200))
            )
            client.replies(200)
    daemon.kill()
    gone = home.segments()[1]
    shutil.move(gone, home.folder / "gone")
    log = refused_and_unchanged(home, 65)
    assert "segment 2 is missing" in log
    shutil.move(home.folder / "gone", gone)
    home.start().stop()


def test_a_torn_tail_is_set_aside_and_reported(acknowledged: Home) -> None:
    (segment,) = acknowledged.segments()
    data = bytearray(segment.read_bytes())
    end = -(-len(data.rstrip(b"\0")) // SECTOR_BYTES) * SECTOR_BYTES
    torn = os.urandom(HEADER_BYTES) + b"half a commit, never acknowledged" * 100
    data[end : end + len(torn)] = torn
    segment.write_bytes(data)
    daemon = acknowledged.start()
    assert daemon.tasks == 50
    assert "torn tail" in daemon.log
    assert f"offset={end}" in daemon.log
    (aside,) = acknowledged.data.glob("torn-*")
    assert aside.read_bytes() == torn
    with daemon.connect() as client:
        client.done("schedule", id="task-50", url=URL, delay="1h", body="the body of 50!")
    daemon.kill()
    check_all_there(acknowledged, 51)


def test_a_clean_start_reports_no_torn_tail(acknowledged: Home) -> None:
    daemon = acknowledged.start()
    assert "torn" not in daemon.log
    daemon.stop()


def test_the_ready_line_says_what_was_found(acknowledged: Home) -> None:
    daemon = acknowledged.start(listen=["127.0.0.1:0", f"unix:{acknowledged.folder}/socket"], config=SMALL)
    assert daemon.tasks == 50
    assert daemon.recovered_ms >= 0
    assert daemon.listen[1] == f"unix:{acknowledged.folder}/socket"
    for number in (0, 1):
        with daemon.connect(number) as client:
            assert client.done("stats")["tasks"]["scheduled"] == 50
    ended = daemon.stop()
    assert ended.out.count("\n") == 1, "one line, and nothing else ever"
