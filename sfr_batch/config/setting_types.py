"""The types of single settings: what a value has to be, and what it is turned into.

Knows values; knows no sections.
"""

import codecs
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A secret: the environment variable that holds it."""


CREDENTIALS_IN_HOOK = (
    "The URL in run.on_end contains credentials before its host. They would end up in logs. Put the whole URL into an "
    "environment variable, and write run.on_end: ${NAME}."
)


def has_credentials(url: str) -> bool:
    """Whether an http:// or https:// URL has a user or a password before its host."""
    return re.match(r"https?://[^/?#]*@", url, re.IGNORECASE) is not None


def _must_be_reference(value: str) -> str:
    if not REFERENCE.fullmatch(value):
        raise ValueError("a config must not contain secrets: write ${NAME} and set the environment variable NAME")
    return value


def _must_not_be_reference(value: str) -> str:
    if REFERENCE.search(value):
        raise ValueError("${NAME} works only for secrets; to vary this setting, use an override: section.field=value")
    return value


def _must_be_one_character(value: str) -> str:
    if named := re.fullmatch(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([0-7]{3}))", value):
        return chr(int(named[1] or named[2] or named[3], 8 if named[3] else 16))
    value = {r"\t": "\t", "\\\\": "\\"}.get(value, value)
    if len(value) != 1:
        raise ValueError("must be one character, such as ';'")
    return value


def _must_be_no_yaml_escape(values: list[str]) -> list[str]:
    if "\x85" in values:
        raise ValueError(r"YAML reads \N in double quotes as another character. Write '\N' in single quotes.")
    return values


def _must_extend_ascii(value: str) -> str:
    """The codec's own name. A line feed has to be one byte, and the same one: files of lines are divided at it."""
    ascii_characters = bytes(range(128))
    try:
        name = codecs.lookup(value).name
        extends = ascii_characters.decode(name) == ascii_characters.decode("ascii")
    except (LookupError, UnicodeError, ValueError):
        name, extends = value, False
    if not extends:
        raise ValueError("must be utf-8, or an encoding that extends ASCII, such as latin-1, windows-1252 or shift_jis")
    return "utf-8" if name == "utf-8-sig" else name


def _none_is_false(value: object) -> object:
    return False if value is None else value


def _must_not_be_of_a_mac(value: object) -> object:
    if value == "mps":
        raise ValueError("a Mac's GPU is not used: set model.device=cpu and run.actors.gpus=0")
    return value


def _must_be_command_or_url(value: str) -> str:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", value)
    if scheme and scheme[1].lower() not in ("http", "https"):
        raise ValueError("must be a command for the shell, or a URL that begins with http:// or https://")
    return value


EnvReference = Annotated[str, AfterValidator(_must_be_reference)]
Text = Annotated[str, AfterValidator(_must_not_be_reference)]
Device = Annotated[Literal["cuda", "cpu"], BeforeValidator(_must_not_be_of_a_mac)]
Hook = Annotated[str, Field(min_length=1), AfterValidator(_must_be_command_or_url)]
Location = Annotated[Text, Field(min_length=1)]
Character = Annotated[str, AfterValidator(_must_be_one_character)]
# Tagged, so that an error is about the variant that was meant, not about both. Errors never show the tags.
TAGS = ("<one>", "<several>")
FromColumns = Annotated[
    Annotated[list[Text], Tag(TAGS[0])] | Annotated[dict[Location, Location], Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, dict)]),
]
Paths = Annotated[
    Annotated[Location, Tag(TAGS[0])] | Annotated[list[Location], Field(min_length=1), Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list)]),
]

Nulls = Annotated[list[str], AfterValidator(_must_be_no_yaml_escape)]
Encoding = Annotated[str, AfterValidator(_must_extend_ascii)]
Header = Annotated[
    Annotated[bool, Tag(TAGS[0])] | Annotated[list[Location], Field(min_length=1), Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list)]),
    BeforeValidator(_none_is_false),
]
