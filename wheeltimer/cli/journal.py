"""``journal check``, ``dump``, ``repair``: they read the data folder, the first two also while a daemon
runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from wheeltimer.cli import options, output
from wheeltimer.errors import JournalDamaged
from wheeltimer.protocol.units import parse_instant_ms

if TYPE_CHECKING:
    from wheeltimer.journal_tools.check import Checked
    from wheeltimer.journal_tools.repair import Repaired

_FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_OUT_BYTES: Final = 1 << 16
_NAMED_MAX: Final = 10  # uncertain tasks that are printed; the report lists all
_KINDS: Final = (
    "scheduled", "rescheduled", "attempted", "stopping", "ended", "paused", "forgotten", "carried", "counted",
    "trimmed",
)  # fmt: skip


@click.group()
def journal() -> None:
    """Look at a daemon's journal: is it whole, what is in it; and save what can be read.

    \b
    Examples:
      wheeltimer journal check /var/lib/wheeltimer
      wheeltimer journal dump /var/lib/wheeltimer --id order-42
    """


@journal.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object.")
def check(folder: Path, as_json: bool) -> None:
    """Read every byte of the journal in DIR and say whether a daemon would start on it.

    Nothing is changed, and a daemon may run on it meanwhile. What a crash tore off is no damage and is
    named, and so is a spare segment that is not zero. Exits with 65 and file, offset and lsn where stored
    data does not read back.

    \b
    Examples:
      wheeltimer journal check /var/lib/wheeltimer
      wheeltimer journal check /var/lib/wheeltimer --json | jq .records
    """
    from wheeltimer.journal_tools.check import check as look  # not at the top: --help needs no decoders

    try:
        with output.reading_bar() as progress:
            found = look(folder, progress=progress)
    except JournalDamaged as error:
        if as_json:
            click.echo(msgspec.json.encode({
                "ok": False, "verdict": "damaged", "file": error.file, "offset": error.offset,
                "lsn": error.lsn, "message": str(error),
            }))  # fmt: skip
        raise
    if as_json:
        click.echo(msgspec.json.encode(_as_json(found)))
    else:
        _show(found)


def _as_json(found: Checked) -> dict[str, Any]:
    answer: dict[str, Any] = {"ok": True, "verdict": "torn" if found.torn else "sound", **asdict(found)}
    if found.torn:
        answer["torn"] = dict(zip(("file", "offset", "bytes"), found.torn, strict=True))
    answer["spares"] = [{"file": name, "offset": offset} for name, offset in found.spares]
    return answer


def _show(found: Checked) -> None:
    torn = None
    if found.torn:
        name, offset, length = found.torn
        torn = f"{name} at offset {offset}: {length} bytes, never acknowledged (or being written now)"
    verdict = "torn at the end, and a start sets that aside" if torn else "sound"
    ends = {"stopped": "stopped cleanly", "open": "in use, or killed", "empty": "empty: a start begins it"}
    output.fields([
        ("verdict", verdict), ("torn", torn), ("state", ends[found.state]), ("journal", found.journal_id),
        ("segments", f"{found.segments} ({found.file_bytes} bytes)"), ("frames", str(found.frames)),
        ("records", f"{found.records} (lsn {found.first_lsn} to {found.last_lsn})"),
        ("spares", ", ".join(f"{name} is not zero at offset {at}" for name, at in found.spares)
            + ": a start zeroes it, nothing is lost" if found.spares else None),
        ("of these", ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))),
    ])  # fmt: skip


def _instant(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    given = options.instant(_context, parameter, text)
    return None if given is None else parse_instant_ms(given, f"--{parameter.name}")


@journal.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--id", metavar="ID", help="Only this task's records.")
@click.option("--queue", metavar="QUEUE", help="Only this queue's records.  [default: all]")
@click.option(
    "--since", callback=_instant, metavar="INSTANT", help="From this time on; RFC 3339 or Unix milliseconds."
)
@click.option("--until", callback=_instant, metavar="INSTANT", help="Up to this time, included.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only records of this kind; repeatable."
)
@click.option("--from-lsn", type=click.IntRange(1), default=1, metavar="LSN", help="From this record on.")
def dump(
    folder: Path, id: str | None, queue: str | None, since: int | None, until: int | None,
    kinds: tuple[str, ...], from_lsn: int,
) -> None:  # fmt: skip
    """Print the records of the journal in DIR, one JSON object a line, oldest first.

    A daemon may run on it meanwhile. Bodies are shown as JSON or text where they are that.

    \b
    Examples:
      wheeltimer journal dump /var/lib/wheeltimer --id order-42
      wheeltimer journal dump /var/lib/wheeltimer --since 2030-01-31T12:00:00Z --kind attempted
      wheeltimer journal dump /var/lib/wheeltimer | head
    """
    from wheeltimer.journal_tools.check import need_journal  # as above
    from wheeltimer.journal_tools.dump import DUMPED, Wanted, dump_lines
    from wheeltimer.journal_tools.reader import read

    need_journal(folder)
    wanted = Wanted(id, queue, frozenset(kinds) if kinds else None, since, until)
    out = sys.stdout.buffer
    at_once = out.isatty()
    waiting = bytearray()
    try:
        for line in dump_lines(read(folder, from_lsn, kinds=DUMPED), wanted):
            waiting += line + b"\n"
            if at_once or len(waiting) >= _OUT_BYTES:
                out.write(waiting)
                out.flush()
                waiting.clear()
    finally:  # records before a damage are printed before its error
        if not isinstance(sys.exception(), BrokenPipeError):
            out.write(waiting)
            out.flush()


@journal.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the report, one JSON object a line.")
def repair(folder: Path, as_json: bool) -> None:
    """Make a journal that a daemon starts on of what can be read in DIR, and list what is lost.

    For a journal that `check` calls damaged; another is left alone. The daemon must be stopped. The old files
    are kept, unchanged, in a folder of their own in DIR, beside the report; it takes as much room once more.
    Copy DIR before anything else if you can.

    \b
    Example:
      wheeltimer journal repair /var/lib/wheeltimer
    """
    from wheeltimer.journal_tools.check import need_journal
    from wheeltimer.journal_tools.repair import REPORT
    from wheeltimer.journal_tools.repair import repair as mend

    need_journal(folder)
    found = mend(folder)
    if found is None:
        click.echo("{}" if as_json else "the journal is not damaged; nothing was changed")
    elif as_json:
        for line in found.lines():
            click.echo(msgspec.json.encode(line))
    else:
        _show_repair(found, found.aside / REPORT)


def _show_repair(found: Repaired, report: Path) -> None:
    output.fields([
        ("damage", found.why), ("kept", f"{found.kept} records"), ("lost", f"{found.records_lost} records"),
        ("dropped", f"{len(found.dropped)} records, which rest on lost ones" if found.dropped else None),
        ("uncertain", f"{len(found.uncertain)} tasks, whose last known state may be an old one"),
        ("journal", found.journal_id.hex() + (" (new: the old id is lost)" if found.id_is_new else "")),
        ("old files", found.aside), ("report", report),
    ])  # fmt: skip
    for lost in found.lost:
        lsns = f"lsn {lost.lsn_from} to {lost.lsn_to}" if lost.lsn_to >= lost.lsn_from else "no lsn is known"
        click.echo(f"lost: {lost.file} offset {lost.offset}, {lost.size} bytes, {lsns}: {lost.why}")
    for key in found.uncertain[:_NAMED_MAX]:
        click.echo(f"uncertain: {output.clean(key)}")
    if len(found.uncertain) > _NAMED_MAX:
        click.echo(f"uncertain: and {len(found.uncertain) - _NAMED_MAX} more; {report} names all")
