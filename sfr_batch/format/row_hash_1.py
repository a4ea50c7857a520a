"""Version 1 of the row hash: carried values as Python spelled them where the first tables were made.

It was BLAKE2b over `repr` of what pyarrow 26 with pandas 3 returned under CPython 3.11. Tables that have it go on with
it, so that spelling is written down here, and no installed version decides it: not pyarrow's choice between `zoneinfo`
and `pytz`, not whether pandas is there, not which characters a later Unicode calls printable. Never change what this
module returns. Where that `repr` failed, at dates beyond Python's years, it says something that is a value's own.
"""

import base64
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from sfr_batch.format.nested import counts_and_items, fields_of, plain, unscaled

_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NOT_A_TIME = -(2**63)
_EPOCH = datetime(1970, 1, 1)


def spell_rows(columns: list[pa.Array]) -> list[bytes]:
    """[n] what version 1 hashes of each row, after its content hash: the `repr` of the tuple of its values."""
    end = ",)" if len(columns) == 1 else ")"
    rows = zip(*map(spell, columns), strict=True)
    return [f"({', '.join(row)}{end}".encode("utf-8", "surrogatepass") for row in rows]


def spell(column: pa.Array) -> list[str]:
    """[n] the `repr` of each value of the column."""
    column = plain(column)
    kind = column.type
    if pa.types.is_map(kind):
        counts, entries = counts_and_items(column)
        pairs = map(", ".join, zip(*(spell(part) for _, part in fields_of(entries)), strict=True))
        return _grouped(counts, iter([f"({pair})" for pair in pairs]))
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind):
        counts, items = counts_and_items(column)
        return _grouped(counts, iter(spell(items)))
    if pa.types.is_struct(kind):
        parts = [[f"{_text(name)}: {value}" for value in spell(part)] for name, part in fields_of(column)]
        rows = [f"{{{', '.join(row)}}}" for row in zip(*parts, strict=True)] if parts else ["{}"] * len(column)
        return [row if valid else "None" for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    if isinstance(kind, pa.UuidType):
        return _each(column.storage, lambda value: repr(UUID(bytes=value)))
    if isinstance(kind, pa.BaseExtensionType):
        return spell(column.storage)
    return _spell_single(column)


def _spell_single(column: pa.Array) -> list[str]:
    """As `spell`, for types whose values have no parts."""
    kind = column.type
    if pa.types.is_decimal(kind):
        spelled = (None if value is None else _decimal(value, kind.scale) for value in unscaled(column))
        return ["None" if value is None else value for value in spelled]
    if pa.types.is_date32(kind):
        return _each(column.cast(pa.int32()), _date)
    if pa.types.is_date64(kind):
        return _each(column.cast(pa.int64()), lambda value: _date(value // 86_400_000))
    if pa.types.is_time(kind):
        a_second = _A_SECOND[kind.unit]
        return _each(column.cast(pa.int32() if kind.bit_width == 32 else pa.int64()), lambda v: _time(v, a_second))
    if pa.types.is_timestamp(kind):
        unit, zone = kind.unit, _Zone(kind.tz) if kind.tz else None
        return _each(column.cast(pa.int64()), lambda value: _timestamp(value, unit, zone))
    if pa.types.is_duration(kind):
        unit = kind.unit
        return _each(column.cast(pa.int64()), lambda value: _duration(value, unit))
    if pa.types.is_float16(kind):
        return _each(column.cast(pa.float64()), repr)
    if pa.types.is_string(kind):
        return _each(column, _text)
    return _each(column, repr)  # null, booleans, whole numbers, floats, bytes, intervals


def _each(column: pa.Array, spelling: Callable[..., str]) -> list[str]:
    return ["None" if value is None else spelling(value) for value in column.to_pylist()]


def _grouped(counts: list[int | None], items: Iterator[str]) -> list[str]:
    """Lists of the next ``counts`` items each; None: a null."""
    return ["None" if count is None else f"[{', '.join(islice(items, count))}]" for count in counts]


# --- single values


def _decimal(value: int, scale: int) -> str:
    digits = tuple(map(int, str(abs(value))))
    return repr(Decimal((int(value < 0), digits, -scale)))


def _date(days: int) -> str:
    try:
        return repr(date(1970, 1, 1) + timedelta(days=days))
    except OverflowError:
        return f"datetime.date({days} days after 1970-01-01)"


def _time(value: int, a_second: int) -> str:
    """What is beyond microseconds was left out."""
    return repr((_EPOCH + timedelta(microseconds=value * 10**6 // a_second)).time())


class _Zone:
    """A time zone as Arrow names it."""

    def __init__(self, name: str) -> None:
        self.found: tzinfo | None = None
        if match := re.fullmatch(r"([+-])(\d\d):?(\d\d)", name):
            offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
            self.found = timezone(-offset if match[1] == "-" else offset) if offset else UTC
        else:
            try:
                self.found = ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError):
                self.found = None
        self.name = name


def _timestamp(value: int, unit: str, zone: _Zone | None) -> str:
    seconds, rest = divmod(value, _A_SECOND[unit])
    try:
        if zone is not None and zone.found is None:
            raise OverflowError
        at = _EPOCH + timedelta(seconds=seconds)
        if zone is not None:
            at = at.replace(tzinfo=UTC).astimezone(zone.found)
    except OverflowError:
        return f"datetime.datetime({value} {unit} after 1970-01-01{f' in {zone.name}' if zone else ''})"
    if unit != "ns":
        return repr(at.replace(microsecond=rest * 10**6 // _A_SECOND[unit]))
    if value == _NOT_A_TIME:
        return "NaT"
    offset, of_zone = ("", "") if zone is None else (at.strftime("%z"), f", tz='{zone.found}'")
    return f"Timestamp('{at:%Y-%m-%d %H:%M:%S}{_fraction(rest)}{offset}'{of_zone})"


def _duration(value: int, unit: str) -> str:
    if unit != "ns":
        try:
            return repr(timedelta(microseconds=value * (10**6 // _A_SECOND[unit])))
        except OverflowError:
            return f"datetime.timedelta({value} {unit})"
    if value == _NOT_A_TIME:
        return "NaT"
    days, rest = divmod(value, 86_400 * 10**9)
    seconds, rest = divmod(rest, 10**9)
    at = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"Timedelta('{days} days {'+' if days < 0 else ''}{at}{_fraction(rest)}')"


def _fraction(nanoseconds: int) -> str:
    """As pandas prints it."""
    if nanoseconds % 1000:
        return f".{nanoseconds:09}"
    return f".{nanoseconds // 1000:06}" if nanoseconds else ""


# --- texts

_PRINTABLE_RUNS = (
    b"c-mD|OK4qH6lLx6Klj{w^OBdmm-q5M3Hh}7HcgwPNvy54F{w2u)z+X?!PbHfbdZ@?q!c@_ilQh~sEEa3)q&OwEJgf)RZyr!@Iw^Ak>W@"
    b"c9JtR56}|VKdp`T@wf9+f?c02yFW@spS{eXFJS#9r+eu)?R;4a<;R>*g=IMAgPm`3Rhk!&i+yT4}SR(2II|@mT$I?O)6m_$|mYX(;H#;"
    b"ew3jremQ}6-~0-JV4p2vcaOA5yD_y%sYMO<M-3%A`9G=oUq43J<z5u}PMY(UnjQuZ#PjUu`<6j4c%H(jlDAMrLVn%KvK(&#aTm~R_ZxN"
    b"jF_&JAREo8~B1dlF$z)&^osg)+ZOr1-7LlWZ=bUk;%kInseoT07{kh#l#aw3S=$zq1^>_`Q#sqM{FT3QsBYh*i_&%B~n<A{362*Is8x^"
    b"r{(Ai@t#%gM=6+m5j=YPQ-57iy9?y7d0mD5EEFl3nCW_W`q(uqF$DaJjl&r^J>se&MqU34*o8#P_`2VqAF6+oA>5tAzxA5N#{!$HSs;E"
    b"vDOi04P|9#@c;W{Uj?h-Ix0ckjKg$7jo>Km4iotGXNVd19Tne)y~-p<9?J8=>sh;KgI-JOVg-rp#f;0CwG-tYuQ@~Aim)J0@}Vyr2_-p"
    b"s`j+2_9vL)2sR|;=Q9e($eIRJspgF9k&;cnG&Oly<XkoAj7$qeNsIZk~L|NYxO2{#BFP{+;<EKy)lX;KqcXc(Q>KKsO@Of~|e%UX#*d0"
    b"k=exllv&3@k{a$Vk*HHP8#vr;h1Vgr@1WZgCnp?XDCVb82A(srI%{&F=E(i>;?G>2qx)1pRIRWUM{JC|ps(kU};{hQQaKtZ&!#SV8>27"
    b"8Jnx57#7hDy7Q*E`W}huniGChZvA+foeYljwQnwft{Qz{i@1idTkps-D69Q1vB_fN2`++n;!ycFbu%U8P)>*0FHxP_Rs-W#>8<V{m@a("
    b"l{m6C3`4cKEpLJhRoMQlOtryF~+Ef)I007=6-;iHvT>8z69jk(^t*Ik3l6L;q&4{>09=z#;0<9-?}snczGARu9NnQ-gCB{s^e{S-|^e!"
    b"E>qZ}63YIZu-DzN`(?juo#hQ069s9{iqq|ns#G|`CAHB%P9?Xt@CW=59k7pgE}la%9C6)ea1U;aKa=>YL12Om_Hsd4?t7Rl)(cDF8qo!"
    b"!%PLpMzqE}X*;t?!Z(n0fu>2%lp+;d&VT0u-qhRncsBP;($)*?dtp{)Vke91$h>z!SEcVR~u}E9%H?BB~XOXQ99t9;hk-`pojz;CNkaN"
    b"-J81NS{TT4f!<GRx4@QqPzA{A?4)o^j=LC!MMTWp=Rag9PoN+@AmO(aTtudOxiMPO#YKW#U@pyqnh`~W&Nmc29gTKT;EDY-iM?zbbq<N"
    b"3dne*h8PjDY"
)
"""Lengths of runs of code points, by turns not printable and printable, from 0 on, under Unicode 14."""


def _unprintable() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The characters that are not printable: those below U+10000, and all."""
    found, at, length, shift = [], 0, 0, 0
    printable = False
    for byte in zlib.decompress(base64.b85decode(_PRINTABLE_RUNS)):
        length |= (byte & 127) << shift
        shift += 7
        if byte & 128:
            continue
        if not printable:
            found.append(f"\\U{at:08x}-\\U{at + length - 1:08x}")
        at, length, shift, printable = at + length, 0, 0, not printable
    # One class of all of them would be searched one range after the other; those below U+10000 alone are looked up.
    low = [span for span in found if span < "\\U00010000"]
    return re.compile(f"[{''.join(low)}]"), re.compile(f"[{''.join(found)}]")


_UNPRINTABLE, _UNPRINTABLE_HIGH = _unprintable()
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _text(value: str) -> str:
    """The `repr` of a text under Unicode 14."""
    if value.isascii():
        return repr(value)
    quote = '"' if "'" in value and '"' not in value else "'"
    inside = value.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    unprintable = _UNPRINTABLE if max(value) < "\U00010000" else _UNPRINTABLE_HIGH
    return f"{quote}{unprintable.sub(_escaped, inside)}{quote}"


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code < 0x100:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
