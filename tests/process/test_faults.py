"""Every system call that the journal makes fails once, in the real process, early, late and in between.

What must hold, whatever fails: the exit code that the operator was promised, one line in the log that
names the call and the file, no traceback; ``storage`` to all who wait, and to nobody a lie: what was
acknowledged is delivered or still there after the next start. A sync that failed is never tried again.

EINTR is no failure: the call did nothing and is made again, but for ``rename`` and ``unlink``, whose makers
never thought of it. EMFILE is none either: the call is made again by a descriptor in hand. No space for a
segment to come is no failure either: then there is less room, or none.
A subscriber that the journal cannot be read for is told, and so is the operator; the daemon goes on.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.campaign import tried
from tests.process.faults import CALLS, SAID, Drill, Fault, Lived, Spot, make_template, spots_of, syncs_after
from tests.process.receiver import Receiver
from tests.process.tools import need

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EINTR")
EACH = 8  # faults met in each system call, where it is made at so many places; --thorough: ten times as many
PROMISED = 60  # faults met in all calls together; --thorough: ten times as many
WORKERS = 3
STORAGE, IN_USE, CARRIED_ON = 74, 73, 0


@dataclass
class Bench:
    """What all drills share: the folder they start with, where a daemon calls what, what was met so far.

    ``left``: for each call the faults that were not tried yet, in the order that ``seed`` gives them.
    """

    folder: Path
    template: Path
    receiver: Receiver
    seed: int
    left: dict[str, list[Fault]]
    tried: int = 0
    met: int = 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    need("strace")
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    folder = tmp_path_factory.mktemp("faults")
    (folder / "template").mkdir()
    template = make_template(folder / "template")
    with Receiver() as receiver:
        drill = Drill(folder / "dry", template, receiver, "dry")
        lived = drill.live(None)
        assert lived.ended.code == 0, lived.ended
        spots = spots_of(lived.trace, drill.home.data)
        drill.check_kept()
        drill.close()
        left = {call: faults_of(spots, call, random.Random(seed)) for call in CALLS}
        yield Bench(folder, template, receiver, seed, left)


def faults_of(spots: Sequence[Spot], call: str, chance: random.Random) -> list[Fault]:
    """All faults of one call: every kind of file with every error before any of them twice."""
    more = {"flock": ("EAGAIN",), "openat": ("EMFILE",)}.get(call, ())
    kinds: dict[tuple[str, str], list[Fault]] = {}
    for spot in spots:
        if spot.call == call:
            for error in (*ERRORS, *more):
                if error == "EMFILE" and spot.kind in (".", "lock"):
                    continue  # opened before there are descriptors in hand
                kinds.setdefault((spot.kind, error), []).append(Fault(spot, error))
    assert kinds, f"the dry run never called {call}"
    piles = list(kinds.values())
    chance.shuffle(piles)
    for pile in piles:
        chance.shuffle(pile)
    return taken_in_turn(piles)


def taken_in_turn(piles: Iterable[Sequence[Fault]]) -> list[Fault]:
    """One of each pile, then the next of each, until all are gone."""
    return [fault for row in zip_longest(*piles) for fault in row if fault is not None]


def expected(fault: Fault, ready: bool) -> int:
    """The exit code that was promised; ``ready``: the daemon had come so far."""
    (call, _, _), error = fault
    if error == "EMFILE" or (error == "EINTR" and call not in ("rename", "unlink")):
        return CARRIED_ON
    if call == "flock" and error == "EAGAIN":
        return IN_USE
    if finds_no_room(fault) or reads_no_spare(fault):
        return CARRIED_ON  # a file that nothing was written to yet: it is removed
    return CARRIED_ON if ready and for_a_subscriber(fault.spot) else STORAGE


def finds_no_room(fault: Fault) -> bool:
    """Whether it is no more than a disk that is full, met while room is taken ahead of its need."""
    (call, _, number), error = fault
    allocates = call in ("openat", "fallocate") or (call == "fdatasync" and number == 1)
    return allocates and error in ("ENOSPC", "EDQUOT") and fault.spot.kind == "spare-N.tmp"


def reads_no_spare(fault: Fault) -> bool:
    """Whether a spare segment of an earlier run cannot be opened or read."""
    (call, _, _), error = fault
    return call in ("openat", "pread64") and error == "EIO" and fault.spot.kind == "spare-N.zeros"


def for_a_subscriber(spot: Spot) -> bool:
    """Segments are opened by name after the start for those who read behind the writer, and nobody else."""
    return spot.call == "pread64" or (spot.call == "openat" and spot.kind == "N.segment")


def check(fault: Fault, lived: Lived) -> None:
    ended = lived.ended
    assert "Traceback" not in ended.log, ended.log
    assert ended.code == expected(fault, lived.ready), ended
    call, name = SAID[fault.spot.call], fault.spot.name.strip(".")
    if ended.code == CARRIED_ON:
        assert lived.ready
        assert not lived.told.storage
    told = finds_no_room(fault) or (for_a_subscriber(fault.spot) and fault.error not in ("EINTR", "EMFILE"))
    if ended.code == STORAGE or told:
        calls = (call, "list:") if call == "open:" else (call,)  # the folder is opened to be listed too
        said = [
            line for line in ended.log.splitlines() if name in line and any(map(line.__contains__, calls))
        ]
        assert len(said) == 1, f"one line with {call} and {name}:\n{ended.log}"
    if ended.code == IN_USE:
        assert "in use by process" in ended.log
    if fault.spot.call in ("fdatasync", "fsync") and fault.error != "EINTR":
        assert syncs_after(lived, lived.injected[0]) == []


def faced(bench: Bench, fault: Fault, name: str) -> tuple[bool, str | None]:
    """Whether the fault was met, and what went wrong."""
    drill = Drill(bench.folder / name, bench.template, bench.receiver, name)
    try:
        lived = drill.live(fault, ends=expected(fault, True) == STORAGE)
        if lived.injected:
            check(fault, lived)
        else:  # what is called when depends on how things fall; the acknowledged is kept all the same
            assert lived.ended.code == 0, lived.ended
        drill.check_kept()
    except AssertionError as error:
        return True, f"{fault}: {error}"
    finally:
        drill.close()
    return bool(lived.injected), None


def face(bench: Bench, faults: list[Fault], wanted: int) -> int:
    """How many were met of ``faults``, tried from the front, and taken away, until ``wanted`` or all were.

    What is called how often depends on how things fall, so a fault that is drawn need not be met.
    """
    met, wrong = 0, list[str]()
    while met < wanted and faults and not wrong:
        some, faults[:] = faults[: wanted - met], faults[wanted - met :]
        names = [f"drill{bench.tried + number}" for number in range(len(some))]
        with ThreadPoolExecutor(WORKERS) as pool:
            results = list(pool.map(lambda pair: faced(bench, *pair), zip(some, names, strict=True)))
        bench.tried += len(some)
        met += sum(hit for hit, _ in results)
        wrong += [why for _, why in results if why is not None]
    bench.met += met
    assert not wrong, f"seed={bench.seed}; WT_SEED={bench.seed} draws the same\n\n" + "\n\n".join(wrong)
    tried("strace cases", met)
    return met


@pytest.mark.parametrize("call", CALLS)
def test_a_system_call_that_fails_once_loses_nothing_acknowledged(
    bench: Bench, call: str, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bench.tried
    met = face(bench, bench.left[call], EACH * (10 if thorough else 1))
    with capsys.disabled():
        print(f"\nfaults in {call}: {met} of {bench.tried - before} met, seed={bench.seed}")
    assert met, "the dry run says nothing about what is called"


def test_as_many_faults_are_met_as_were_promised(
    bench: Bench, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some calls are made at few places: what they lack is made up by those that are made at many."""
    wanted = PROMISED * (10 if thorough else 1)
    face(bench, taken_in_turn(bench.left.values()), wanted - bench.met)
    with capsys.disabled():
        print(f"\nfaults in all: {bench.met} of {bench.tried} met, seed={bench.seed}")
    assert bench.met >= wanted, (
        f"{bench.met} faults were met and {wanted} are promised: none of the {bench.tried} that the dry run "
        f"knows is left to try (seed={bench.seed}); the drill has to call more"
    )
