"""`encode` of what is no text, or from or to where it cannot: said before the model is loaded."""

from tests.bad_input.bench import IDS, Bench, check_refused_before_a_model, embedded, jsonl, put

ENCODE = "encode {root}/table"
FILE = f"{ENCODE} --file {{root}}/"

REFUSED = [
    (f"{ENCODE} one --file {{root}}/q.txt", 2, "Give TEXT or --file, not both."),
    (f"{ENCODE} one --column text", 2, "--column is for the texts of --file."),
    (f"{ENCODE} one --output {{root}}/v.csv", 2,
     "--output {root}/v.csv: the name must end in .parquet, .jsonl or .npy."),
    (f"{ENCODE} one --output {{root}}/corpus/v.npy", 2,
     "{root}/corpus/v.npy is inside {root}/corpus, the corpus of the table {root}/table. Choose a folder beside it."),
    (f"{ENCODE} one --output {{root}}/table/data/v.parquet", 2,
     "{root}/table/data/v.parquet is inside the table {root}/table. Choose a folder beside it."),
    (f"{FILE}blank.txt", 1, "{root}/blank.txt line 2 is empty. Remove it: each line is a text."),
    (f"{FILE}latin.txt", 1, "{root}/latin.txt line 1 is not UTF-8: invalid continuation byte at byte 3."),
    (f"{FILE}wide.txt", 1,
     "{root}/wide.txt is UTF-16, which is not supported. Convert it to UTF-8: iconv -f UTF-16 -t UTF-8."),
    (f"{FILE}empty.txt", 1, "{root}/empty.txt has no texts."),
    (f"{FILE}empty.jsonl", 1, "{root}/empty.jsonl has no rows."),
    (f"{FILE}twice.jsonl", 1,
     "{root}/twice.jsonl row 3: the id '1' is also that of {root}/twice.jsonl row 1. Give each its own."),
    (f"{FILE}some.jsonl", 1,
     "{root}/some.jsonl row 2 has an id, and the rows above have none. Give each row one, or none."),
    (f"{FILE}others.jsonl", 1,
     "{root}/others.jsonl row 2 has no id, and the rows above have one. Give each row one, or none."),
    (f"{FILE}titles.csv", 1,
     "{root}/titles.csv row 1 has no column text. Columns there: title. Name the one with the texts: --column NAME."),
    (f"{FILE}half.jsonl", 1,
     "{root}/half.jsonl row 1: text is not valid Unicode at character 4: half of a surrogate pair. Remove the row, or "
     "fetch the file again."),
    (f"{FILE}null.jsonl", 1, "{root}/null.jsonl row 1: text is missing, not a text. Remove the row."),
]  # fmt: skip


def test_what_cannot_be_encoded(bench: Bench) -> None:
    for name, data in {
        "corpus/good.jsonl": jsonl([{"id": name, "text": name} for name in IDS]),
        "q.txt": b"one\n",
        "blank.txt": b"one\n \ntwo\n",
        "latin.txt": "caf\xe9 au lait".encode("latin-1"),
        "wide.txt": "one".encode("utf-16"),
        "empty.txt": b"\n\n",
        "empty.jsonl": b"",
        "twice.jsonl": jsonl([{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"id": "1", "text": "c"}]),
        "some.jsonl": jsonl([{"text": "a"}, {"_id": 2, "text": "b"}]),
        "others.jsonl": jsonl([{"_id": 2, "text": "b"}, {"text": "a"}]),
        "titles.csv": b"title\na\n",
        "half.jsonl": jsonl([{"text": "how \ud800"}]),
        "null.jsonl": jsonl([{"text": None}]),
    }.items():
        put(name, data)(bench)
    embedded(bench)
    check_refused_before_a_model(REFUSED, bench)
