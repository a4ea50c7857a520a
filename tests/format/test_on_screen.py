"""Texts of others on a screen: nothing in them is obeyed, and none is endless."""

import string

from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.format.on_screen import printable, shown, shown_id, shown_message
from sfr_batch.table.search import Hit, Hits

HUGE = "x" * 2_000_000


def test_escapes() -> None:
    assert printable("a\x1b[2J\r\x9b1m\u202eb\ud800\tc\nd") == "a\\x1b[2J\\r\\x9b1m\\u202eb\\ud800\tc\nd"
    assert printable("é 漢 😀") == "é 漢 😀"
    assert shown_id("a\tb\nc\x07") == "a\\tb\\nc\\x07"
    assert shown(" a\t b\n\x1bc ") == "a b \\x1bc"
    assert shown_message("one\x1b\ntwo") == "one\\x1b\ntwo"


def test_what_is_too_long_is_cut() -> None:
    assert shown_id("x" * 200) == "x" * 200
    assert shown_id(HUGE) == "x" * 200 + "… (2,000,000 characters)"
    assert shown(HUGE) == "x" * 99 + "…"
    assert shown("x" * 100) == "x" * 100
    assert (
        shown_message(f"begin {HUGE} end") == "begin " + "x" * 994 + "… (1,998,010 characters) …" + "x" * 996 + " end"
    )


@given(st.text(), st.integers(2, 50))
def test_any_text_is_one_harmless_line(text: str, width: int) -> None:
    for line in (shown(text, width), shown_id(text)):
        assert line.splitlines() in ([], [line])
        assert line.isprintable() or not set(line) & {chr(code) for code in (*range(32), *range(127, 160))}
    assert len(shown(text, width)) <= width
    if not set(text) - set(string.ascii_letters) and len(text) <= width:
        assert shown(text, width) == shown_id(text) == text


def test_hits_print_lines() -> None:
    hits = Hits([Hit("a\x1b[2J\nb", 0.5, {"title": "\x1b" + HUGE}), Hit(7, 0.25, {"title": "t"})])
    assert repr(hits) == "0.5000  a\\x1b[2J\\nb\n0.2500  7"
    assert len(hits._repr_html_()) < 5000
    assert "\x1b" not in hits._repr_html_()
