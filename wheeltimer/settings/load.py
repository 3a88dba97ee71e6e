"""Makes one ``Settings`` from flags, variables and file, or raises one error with the setting to change.

``load`` reads the configuration file and the files that it refers to, nothing else; environment and flags are
arguments. Every value is kept with its source (`_Given`) until it is checked, so that an error can name the
source.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import platformdirs
from msgspec import Struct

from wheeltimer.errors import BadValue, SettingsError
from wheeltimer.protocol.retry import BUILT_IN, Rule, parse_rule
from wheeltimer.protocol.units import format_duration
from wheeltimer.settings.definitions import (
    Destination,
    Journal,
    Knob,
    Limits,
    Queue,
    Settings,
    Tls,
    Token,
    knobs,
)
from wheeltimer.settings.values import parse_destination, parse_name

FLAGS: Final = {
    "listen": "listen",
    "http": "http",
    "data_dir": "data_dir",
    "tick": "tick",
    "wheel_size": "wheel_size",
    "allow_net": "allow_nets",
    "fsync": "fsync",
    "concurrency": "concurrency",
    "max_tasks": "limits.tasks_max",
    "insecure": "insecure",
}
"""Flag (``--max-tasks`` as ``max_tasks``; also ``WHEELTIMER_MAX_TASKS``) to the key that it sets."""

_PREFIX: Final = "WHEELTIMER_"
_OTHERS_VARIABLES: Final = re.compile(
    # Variables of the client, and those that Kubernetes sets in every pod for a service named "wheeltimer".
    r"CONFIG|SERVER|TOKEN|CA_FILE|CERT_FILE|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_(TCP|UDP)(_.*)?)?"
)
_FLAT: Final[dict[str, type[Struct]]] = {"limits": Limits, "journal": Journal}
_TABLES: Final[tuple[str, ...]] = ("retry", "queues", "destinations", "tokens", "tls")
_KNOBS: Final[dict[str, Knob]] = {knob.key: knob for knob in knobs(Settings)} | {
    f"{table}.{knob.key}": knob for table, struct in _FLAT.items() for knob in knobs(struct)
}
_CLOSE: Final = 0.66  # "retries" is close to "retry", "http" is not to "path"
_EXIT_FLAG: Final = 2
_S = TypeVar("_S", bound=Struct)


class _Given(NamedTuple):
    """A value and its source: ``--tick``, ``WHEELTIMER_TICK`` or ``tick in /etc/wheeltimer.toml``."""

    value: Any
    name: str
    file: Path | None = None
    is_text: bool = False
    exit_code: int = SettingsError.exit_code

    def error(self, problem: str) -> SettingsError:
        where = f"{self.name} in {self.file}" if self.file else self.name
        error = SettingsError(f"{where}: {problem}")
        error.exit_code = self.exit_code
        return error

    def member(self, key: str, value: Any) -> _Given:
        """``key`` of this table; quoted if TOML would quote it."""
        shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
        return self._replace(value=value, name=f"{self.name}.{shown}" if self.name else shown)

    def members(self) -> dict[str, _Given]:
        """The members of this table."""
        if not isinstance(self.value, dict):
            raise self.error("a table is expected here")
        return {key: self.member(key, value) for key, value in self.value.items()}


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings of one start, or of one reload.

    ``flags`` is keyed as :data:`FLAGS`, and ``config``; None, False and ``()`` mean "not given".
    Raises ``SettingsError``, with ``exit_code`` 2 if a flag is wrong, else 78.
    """
    config = _config_file(flags, environ)
    given = _from_file(config)
    tables = {key: given.pop(key) for key in _TABLES if key in given}
    given |= _from_environment(environ)
    given |= _from_flags(flags)
    given.setdefault("data_dir", _Given(_default_data_dir(environ), "--data-dir"))
    for key, value in given.items():
        if key not in _KNOBS:
            raise value.error(f"no such setting{_did_you_mean(key, [*_KNOBS, *_FLAT, *_TABLES])}")
    values = {key: _value(_KNOBS[key], value) for key, value in given.items()}
    settings = Settings(
        **_attributes(values, ""),
        limits=Limits(**_attributes(values, "limits")),
        journal=Journal(**_attributes(values, "journal")),
        **_read_tables(tables),
        config_file=config,
    )
    _check_together(settings)
    return settings


def _attributes(values: Mapping[str, Any], table: str) -> dict[str, Any]:
    """The values of one table by attribute."""
    return {_KNOBS[key].attribute: value for key, value in values.items() if key.rpartition(".")[0] == table}


# --- the layers ------------------------------------------------------------------------------------


def _config_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> Path | None:
    named = flags.get("config") or environ.get("WHEELTIMER_CONFIG")
    return Path(str(named)).expanduser().absolute() if named else None


def _default_data_dir(environ: Mapping[str, str]) -> str:
    # systemd's StateDirectory= gives a list with colons; the first folder is taken.
    return environ.get("STATE_DIRECTORY", "").partition(":")[0] or platformdirs.user_state_dir("wheeltimer")


def _from_file(path: Path | None) -> dict[str, _Given]:
    """Dotted key to value for single settings, key to whole table for :data:`_TABLES`."""
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # some editors write a BOM in front
    except OSError as error:
        raise SettingsError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    given = _Given(document, "", path).members()
    for table in _FLAT.keys() & given.keys():
        given |= {f"{table}.{key}": member for key, member in given.pop(table).members().items()}
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    known = {key.replace(".", "_").upper(): key for key in _KNOBS if "." in key}
    known |= {key.upper(): key for key in _KNOBS if "." not in key and key not in FLAGS.values()}
    known |= {name.upper(): key for name, key in FLAGS.items()}
    values: dict[str, _Given] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX)
        if name == variable or not text or _OTHERS_VARIABLES.fullmatch(name):
            continue
        given = _Given(text, variable, is_text=True)
        if name not in known:
            raise given.error(f"no such setting{_did_you_mean(name, known, _PREFIX)}")
        if known[name] in values:  # WHEELTIMER_MAX_TASKS and WHEELTIMER_LIMITS_TASKS_MAX
            raise given.error(f"{values[known[name]].name} sets the same; keep one")
        values[known[name]] = given
    return values


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    return {
        FLAGS[name]: _Given(value, f"--{name.replace('_', '-')}", is_text=True, exit_code=_EXIT_FLAG)
        for name, value in flags.items()
        if name != "config" and value is not None and value is not False and value != ()
    }


# --- values and tables -----------------------------------------------------------------------------


def _value(knob: Knob, given: _Given) -> Any:
    folder = given.file.parent if given.file else Path()
    try:
        if knob.parse is not None:
            value = knob.parse(given.value, folder)
        else:
            value = msgspec.convert(given.value, knob.type, strict=not given.is_text)
    except BadValue as error:
        raise given.error(str(error)) from error
    except msgspec.ValidationError as error:
        # If `_range` is enough, msgspec's message would only repeat it.
        why = "" if given.is_text or knob.choices else f" {_plain(error)};"
        raise given.error(f"{given.value!r}:{why} give {_range(knob)}") from error
    too_low = knob.low is not None and value is not None and value < knob.low
    if too_low or (knob.high is not None and value is not None and value > knob.high):
        raise given.error(f"{given.value!r} is out of bounds ({knob.reason}); give {_range(knob)}")
    return value


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's message in terms of a TOML file: ``expected int, got str``."""
    text = re.sub(r" - at `\$\.?(.*)`$", r" (at \1)", str(error)).replace("`", "").replace("Object", "table")
    return f"{text[0].lower()}{text[1:]}"


def _range(knob: Knob) -> str:
    """The allowed values of a setting, as text."""
    if choices := knob.choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if knob.low is None:
        return knob.reason
    assert knob.high is not None
    if knob.unit == "ms":
        return f"{format_duration(knob.low)} to {format_duration(knob.high)}"
    return f"{knob.low} to {knob.high}"


def _did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A suggestion for a wrong name: ``limits.tasks_max`` for ``tasks_max``, ``tick`` for ``tik``."""
    known = list(known)
    lower = name.lower()
    same_end = [key for key in known if key.lower().endswith((f".{lower}", f"_{lower}"))]
    close = same_end or difflib.get_close_matches(name, known, 1, _CLOSE)
    return f"; did you mean {prefix}{close[0]}?" if len(close) == 1 else ""  # "max" could be any of a dozen


def _table(struct: type[_S], table: _Given) -> _S:
    """One table of the file as a struct of settings."""
    known = {knob.key: knob for knob in knobs(struct)}
    given = table.members()
    for key, value in given.items():
        if key not in known:
            raise value.error(f"no such setting{_did_you_mean(key, known)}")
    for key, knob in known.items():
        if knob.required and key not in given:
            raise table.error(f"{key} is missing: {knob.reason}")
    return struct(**{known[key].attribute: _value(known[key], value) for key, value in given.items()})


def _read_tables(tables: Mapping[str, _Given]) -> dict[str, Any]:
    """The tables that only the file can have, by attribute of ``Settings``."""
    read: dict[str, Any] = {}
    if "retry" in tables:
        read["retry"] = _named(tables["retry"], parse_name, _rule)
    rules = BUILT_IN.keys() | read.get("retry", {}).keys()
    if "queues" in tables:
        read["queues"] = _named(tables["queues"], parse_name, lambda given: _queue(given, rules))
    if "destinations" in tables:
        read["destinations"] = _named(
            tables["destinations"], parse_destination, lambda given: _table(Destination, given)
        )
    if "tokens" in tables:
        read["tokens"] = _tokens(tables["tokens"])
    if "tls" in tables:
        read["tls"] = _table(Tls, tables["tls"])
    return read


def _named(table: _Given, name: Callable[[str], str], read: Callable[[_Given], Any]) -> dict[str, Any]:
    """A table of tables under names that the user chose."""
    members: dict[str, Any] = {}
    for key, given in table.members().items():
        try:
            canonical = name(key)
        except BadValue as error:
            raise given.error(str(error)) from error
        if canonical in members:
            raise given.error(f"{canonical} stands there twice; keep one")
        members[canonical] = read(given)
    return members


def _rule(given: _Given) -> Rule:
    """One ``[retry.NAME]``. A built-in rule cannot be redefined, as tasks may rely on it."""
    if given.name.removeprefix("retry.") in BUILT_IN:
        raise given.error("a built-in rule has this name; choose another one")
    try:
        return parse_rule(given.value, "")
    except BadValue as error:
        raise given.error(str(error)) from error


def _queue(given: _Given, rules: set[str]) -> Queue:
    queue = _table(Queue, given)
    if queue.retry is not None and queue.retry not in rules:
        known = ", ".join(sorted(rules))
        raise given.error(
            f"retry: there is no rule {queue.retry!r}{_did_you_mean(queue.retry, rules)} ({known})"
        )
    return queue


def _tokens(given: _Given) -> tuple[Token, ...]:
    if not isinstance(given.value, list):
        raise given.error("write each token under [[tokens]], with two brackets")
    tokens = [
        _table(Token, given._replace(value=value, name=f"tokens[{number}]"))
        for number, value in enumerate(given.value, 1)
    ]
    for number, token in enumerate(tokens, 1):
        if not token.scopes:
            raise given.error(
                f"tokens[{number}] ({token.name}): scopes is empty; give produce, read or admin"
            )
        for other in tokens[: number - 1]:
            if token.name == other.name or token.sha256 == other.sha256:
                raise given.error(f"tokens[{number}] ({token.name}): name or sha256 stands there twice")
    return tuple(tokens)


def _check_together(settings: Settings) -> None:
    """Checks that need more than one setting."""
    limits = settings.limits
    if limits.body_bytes_max > limits.line_bytes_max:
        raise SettingsError(
            "limits.body_bytes_max: a body is part of a line; raise limits.line_bytes_max too"
        )
    if settings.journal.segment_bytes < 4 * limits.line_bytes_max:
        raise SettingsError(
            "journal.segment_bytes: a segment holds at least four of the largest requests;"
            " lower limits.line_bytes_max or raise it"
        )
    listeners = [*settings.listen, *([settings.http] if settings.http else [])]
    if not settings.listen:
        raise SettingsError("listen: empty; give at least one address, as 127.0.0.1:8463")
    if any(address.kind == "tls" for address in listeners) and settings.tls is None:
        raise SettingsError("listen: tls: needs [tls] with cert and key in the configuration file")
    exposed = [str(address) for address in listeners if not address.is_local]
    if exposed and not settings.tokens and not settings.insecure:
        raise SettingsError(
            f"listen: {', '.join(exposed)} can be reached from other machines and asks nobody for a token;"
            " make one with `wheeltimer token new` and put it under [[tokens]], or pass --insecure where"
            " the network is trusted"
        )


# -- differences between two settings: keys of the configuration file, never a value -----------------------

_COMPARED: Final = (Settings, Limits, Journal, Queue, Destination, Token, Tls, Mapping, tuple)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")  # a key that needs no quotes in TOML


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """The keys that differ, as ``tick``, ``limits.keep_done``, ``queues.orders.rate``; for a table that was
    added or removed, its name."""
    return [key for key in _changed("", old, new) if key != "config_file"]


def _changed(name: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if not (isinstance(old, _COMPARED) and isinstance(new, _COMPARED)):
        yield name
        return
    before, after = _members(name, old), _members(name, new)
    if before is None or after is None:
        yield name
        return
    for key in before | after:
        shown = key if _BARE.fullmatch(key) else f'"{key}"'
        inner = f"{name}.{shown}" if name else shown
        if key in before and key in after:
            yield from _changed(inner, before[key], after[key])
        else:
            yield inner


def _members(name: str, table: object) -> dict[str, Any] | None:
    """A table's members by key; None for a list of plain values."""
    if isinstance(table, Mapping):
        return dict(table)
    if isinstance(table, Struct):
        fields = type(table).__struct_fields__
        return {field.removesuffix("_ms"): getattr(table, field) for field in fields}
    assert isinstance(table, tuple)
    return {token.name: token for token in table} if name == "tokens" else None
