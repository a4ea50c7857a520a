"""Bad input, as a table: what is prepared, the whole message that a user sees, and what is left behind."""

import gzip
import json

import pyarrow as pa
import pytest

import sfr_batch as sfr
from tests.bad_input.bench import (
    DUPLICATE,
    FAR_DOWN,
    GOOD,
    HALF_INDEX,
    IDS,
    LARGE,
    MANY,
    MINILM,
    MODEL,
    NOISE,
    NOT_INT,
    NOT_UNICODE,
    S3_CORPUS,
    Bench,
    Row,
    allow,
    before_publishing,
    between_splits,
    both,
    check_row,
    closed_port,
    cut_off,
    edited_model,
    embedded,
    environment,
    flipped,
    good_parquet,
    job,
    larger_disk,
    limited,
    lines,
    meanwhile,
    model,
    not_utf8,
    put,
    read_only,
    s3,
    small_disk,
    table,
    unlimited,
    without_keys,
    zstd,
)
from tests.tables import jsonl, parquet

# --- the table

# fmt: off
ROWS = [
    # The config
    Row("no config", "There is no config {root}/jobs.yaml. Configs in {root}: {root}/job.yaml.", code=2,
        command="embed {root}/jobs.yaml"),
    Row("config is a folder", "Usage: main embed [OPTIONS] CONFIG [SECTION.FIELD=VALUE]...\n"
        "Try 'main embed --help' for help.\n"
        "\n"
        "Error: Invalid value for 'CONFIG': File '{root}/corpus' is a directory.", code=2,
        command="embed {root}/corpus"),
    Row("config is not UTF-8",
        "The config {root}/job.yaml is not valid UTF-8 ({*} at byte 18). Save the file as UTF-8.", code=2,
        prepare=job(b"corpus: {path: caf\xe9}\n")),
    Row("config is not YAML", "The config {root}/job.yaml is not valid YAML: {*}\n"
        "{*}line 1, column 9:\n"
        "{*}\n"
        "{*}\n"
        "{*}\n"
        "{*}line 2, column 6:\n"
        "{*}\n"
        "{*}", code=2, prepare=job("corpus: {path: x\nmodel: [\n")),
    Row("config is a list",
        "The config {root}/job.yaml must be a mapping with the sections corpus, model, table, select, run, "
        "evaluation.", code=2,
        prepare=job("- corpus\n")),
    Row("config is empty",
        "The config {root}/job.yaml must be a mapping with the sections corpus, model, table, select, run, "
        "evaluation.", code=2,
        prepare=job("")),
    Row("key set twice", "The config {root}/job.yaml is not valid YAML: 'corpus' is set twice\n"
        '  in "{root}/job.yaml", line 2, column 1:\n'
        "    corpus: {path: y}\n"
        "    ^", code=2, prepare=job("corpus: {path: x}\ncorpus: {path: y}\n")),
    Row("setting missing", "{root}/job.yaml has 2 wrong settings:\n"
        "  corpus: missing, and it has no default\n"
        "  model.path: missing, and it has no default", code=2, prepare=job("model: {}\ntable: {path: x}\n")),
    Row("unknown section", "{root}/job.yaml has 1 wrong setting:\n"
        "  modle: unknown setting. Did you mean model?", code=2, overrides=("modle.path=x",)),
    Row("unknown setting", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.rows_per_splits: unknown setting. Did you mean rows_per_split?", code=2,
        overrides=("run.rows_per_splits=3",)),
    Row("unknown setting like none", "{root}/job.yaml has 1 wrong setting:\n"
        "  table.storage.password: unknown setting. Known settings: endpoint_url, region, profile, anonymous, "
        "requester_pays, access_key_id, secret_access_key, multipart, attempts, give_up_after_s.", code=2,
        overrides=("table.storage.password=x",)),
    Row("bounds of retries", "{root}/job.yaml has 2 wrong settings:\n"
        "  table.storage.attempts: must be at least 1 and at most 1000\n"
        "  table.storage.give_up_after_s: must be more than 0", code=2,
        overrides=("table.storage={attempts: 0, give_up_after_s: 0}",)),
    Row("section is a value", "{root}/job.yaml has 1 wrong setting:\n"
        "  run: must be a section that contains settings", code=2, overrides=("run=fast",)),
    Row("not a number", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.rows_per_split: must be a whole number, at least 1", code=2, overrides=("run.rows_per_split=many",)),
    Row("too small", "{root}/job.yaml has 2 wrong settings:\n"
        "  run.rows_per_split: must be at least 1\n"
        "  run.bytes_per_split: must be at least 1024", code=2,
        overrides=("run.rows_per_split=0", "run.bytes_per_split=1")),
    Row("share above 1", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.max_reject_share: must be at least 0 and at most 1", code=2, overrides=("run.max_reject_share=10",)),
    Row("lease of no time", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.lease_s: must be at least 1 and at most 3600", code=2, overrides=("run.lease_s=0",)),
    Row("not a number at all", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.progress_every_s: must be a number, more than 0", code=2, overrides=("run.progress_every_s=.nan",)),
    Row("no such choice", "{root}/job.yaml has 1 wrong setting:\n"
        "  table.vector_dtype: must be 'float32' or 'float16'", code=2, overrides=("table.vector_dtype=float64",)),
    Row("not a text", "{root}/job.yaml has 1 wrong setting:\n"
        "  table.path: must be a string: quote numbers and dates, on the command line twice: "
        "table.path='\"…\"'", code=2, overrides=("table.path=2026",)),
    Row("prompt is not a text", "{root}/job.yaml has 1 wrong setting:\n"
        "  model.prompts.query: must be a string: quote numbers and dates, on the command line twice: "
        "model.prompts.query='\"…\"'", code=2, overrides=("model.prompts={query: 5}",)),
    Row("empty path", "{root}/job.yaml has 1 wrong setting:\n"
        "  corpus.path: must not be empty", code=2, overrides=("corpus.path=",)),
    Row("no paths", "{root}/job.yaml has 1 wrong setting:\n"
        "  corpus.path: must not be empty", code=2, overrides=("corpus.path=[]",)),
    Row("delimiter of two", "{root}/job.yaml has 1 wrong setting:\n"
        "  corpus.delimiter: must be one character, such as ';'", code=2, overrides=("corpus.delimiter='||'",)),
    Row("max below min", "{root}/job.yaml has 1 wrong setting:\n"
        "  run.actors: max (2) must be at least min (3)", code=2, overrides=("run.actors={min: 3, max: 2, gpus: 0}",)),
    Row("cuda without GPUs", "{root}/job.yaml has 1 wrong setting:\n"
        "  config: model.device is cuda but run.actors.gpus is 0: set run.actors.gpus=1 or model.device=cpu", code=2,
        overrides=("model.device=cuda",)),
    Row("cpu with GPUs", "{root}/job.yaml has 1 wrong setting:\n"
        "  config: model.device is cpu but run.actors.gpus is 1: set run.actors.gpus=0", code=2,
        overrides=("run.actors.gpus=1",)),
    Row("override without =", "The override 'table.path' is not of the form section.field=value.", code=2,
        overrides=("table.path",)),
    Row("override through a value",
        "The override table.path.x goes through 'path', which is a value and not a section.", code=2,
        overrides=("table.path.x=1",)),
    Row("override is not YAML",
        "The value of the override corpus.text is not valid YAML: {*}. Quote it twice: corpus.text='\"…\"'.", code=2,
        overrides=("corpus.text={title} {text}",)),
    Row("secret in clear", "{root}/job.yaml has 2 wrong settings:\n"
        "  corpus.storage.access_key_id: a config must not contain secrets: write ${NAME} and set the "
        "environment variable NAME\n"
        "  corpus.storage.secret_access_key: a config must not contain secrets: write ${NAME} and set the "
        "environment variable NAME", code=2, overrides=("corpus.storage={access_key_id: AKIA, secret_access_key: x}",)),
    Row("half a key", "{root}/job.yaml has 1 wrong setting:\n"
        "  corpus.storage: access_key_id and secret_access_key go together: give both or neither", code=2,
        overrides=("corpus.storage.access_key_id=${ID}",)),
    Row("variable in a path", "{root}/job.yaml has 1 wrong setting:\n"
        "  table.path: ${NAME} works only for secrets; to vary this setting, use an override: section.field=value",
        code=2, overrides=("table.path=${HOME}/table",)),
    Row("unset variable",
        "The environment variable SFR_A is not set, but the config refers to it as ${SFR_A}. Export it, on a "
        "cluster on every node.", code=2,
        overrides=(
            "corpus.path=s3://b/c",
            "corpus.storage={access_key_id: '${SFR_A}', secret_access_key: '${SFR_B}'}",
        )),
    Row("endpoint without scheme",
        "The S3 endpoint localhost:1 (storage.endpoint_url, AWS_ENDPOINT_URL) has no scheme; write "
        "http://localhost:1 or https://localhost:1.", code=2,
        overrides=("corpus.path=s3://b/c", "corpus.storage.endpoint_url=localhost:1")),
    Row("unknown scheme", "gs://bucket/table: the scheme gs:// is not supported; use s3:// or a local path.", code=2,
        overrides=("table.path=gs://bucket/table",)),
    Row("no bucket", "s3:// names no bucket; write s3://bucket/prefix.", code=2, overrides=("table.path=s3://",)),
    Row("bad template",
        "corpus.text '{text' is not a template: {*}. Write column names in braces, as in '{title} {text}'.", code=2,
        overrides=("corpus.text='{text'",)),
    Row("format in a template",
        "corpus.text '{text:>8}': write plain column names in braces, as in '{title} {text}'.", code=2,
        overrides=("corpus.text='{text:>8}'",)),
    Row("reserved "
        "column", "corpus.carry: 'embedding' is a column name reserved for the table. Give the column another name in "
                  "the table, carry: {embedding_2: embedding}.", code=2,
        overrides=("corpus.carry=[embedding]",), files={"a.jsonl": jsonl([{"id": "a", "text": "x", "embedding": 1}])}),
    Row("table inside the corpus",
        "corpus.path {root}/corpus covers table.path {root}/corpus/table: the next run would embed the table's "
        "own files. Change one of the two paths.", code=2, overrides=("table.path={root}/corpus/table",)),
    Row("table is the corpus",
        "corpus.path {root}/corpus covers table.path {root}/corpus: the next run would embed the table's own "
        "files. Change one of the two paths.", code=2, overrides=("table.path={root}/corpus",)),
    Row("table under a glob",
        "corpus.path {root}/**/*.* covers table.path {root}/table: the next run would embed the table's own "
        "files. Change one of the two paths.", code=2, overrides=("corpus.path={root}/**/*.*",)),
    Row("corpus inside the table",
        "corpus.path {root}/corpus is inside table.path {root}, where only the table may have files. Change one of "
        "the two paths.", code=2, overrides=("table.path={root}",)),
    Row("no GPU here",
        "model.device is cuda, but PyTorch sees no GPU here: it is a build for CPUs. Install a CUDA build of PyTorch "
        "on every node, or set model.device=cpu and run.actors.gpus=0.", code=2,
        overrides=("model.device=cuda", "run.actors.gpus=1")),
    Row("document prompt leaves no room",
        "model.prompts.document: The prompt takes 6 tokens and the special tokens take 2 of 8, which leaves no "
        "room for text. Raise model.max_length or shorten the prompt.", code=2,
        overrides=("model.max_length=8", "model.prompts={document: 'a b c d e f'}")),
    Row("query prompt leaves no room",
        "model.prompts.query: The prompt takes 6 tokens and the special tokens take 2 of 8, which leaves no room "
        "for text. Raise model.max_length or shorten the prompt.", code=2,
        overrides=("model.max_length=8", "model.prompts={query: 'a b c d e f'}")),
    # The corpus as a whole
    Row("nothing at the path",
        "corpus.path {root}/corpse matches no files. Correct the path. Names that begin with _ or . are "
        "skipped.", overrides=("corpus.path={root}/corpse",)),
    Row("nothing at a relative path",
        "corpus.path tests/corpse matches no files at {cwd}/tests/corpse. Correct the path: relative paths begin in "
        "the working directory, which for a submitted job is the folder uploaded with it. Names that begin with _ or . "
        "are skipped.", overrides=("corpus.path=tests/corpse",)),
    Row("glob without a match",
        "corpus.path {root}/corpus/*.json matches no files. Correct the path. Names that begin with _ or . are "
        "skipped.", overrides=("corpus.path={root}/corpus/*.json",)),
    Row("one of several paths is empty",
        "corpus.path {root}/nothing/*.jsonl matches no files. Correct the path. Names that begin with _ or . are "
        "skipped.",
        overrides=("corpus.path=['{root}/corpus', '{root}/nothing/*.jsonl']",)),
    Row("empty folder",
        "corpus.path {root}/empty matches no files. Correct the path. Names that begin with _ or . are "
        "skipped.", prepare=lambda bench: (bench.root / "empty").mkdir(),
        overrides=("corpus.path={root}/empty",)),
    Row("a link to nothing", "{root}/corpus/gone.jsonl is a broken link; repair or remove it.",
        prepare=lambda bench: (bench.root / "corpus/gone.jsonl").symlink_to("nowhere")),
    Row("unsupported files",
        "corpus.path {root}/corpus has no readable files among its 2 files, e.g. {root}/corpus/a.docx. Supported: "
        "{supported}. For files with other endings set corpus.format.",
        files={"a.docx": b"x", "b.pdf": b"x"}),
    Row("some unsupported files",
        "corpus.path {root}/corpus holds 1 data file in unsupported formats, e.g. {root}/corpus/b.avro. Supported: "
        "{supported}. Convert them, or select the files to read: corpus.path={root}/corpus/**/*.jsonl.",
        files={**GOOD, "b.avro": b"x"}),
    Row("text among Parquet",
        "corpus.path {root}/corpus holds text files, e.g. {root}/corpus/notes.txt, mixed with files that have "
        "columns. Select the files to read: corpus.path={root}/corpus/**/*.parquet.",
        files={"a.parquet": table(id=["a"], text=["x"]), "notes.txt": b"x\n"}),
    Row("compressed Parquet",
        "{root}/corpus/a.parquet.gz is not a readable Parquet file: {*}. It is compressed as a whole: unpack it "
        "(gunzip). Replace it, or remove it from the corpus.",
        files={"a.parquet.gz": gzip.compress(table(id=["a"], text=["x"]))}),
    Row("no rows in Parquet",
        "The corpus {root}/corpus has no rows, only 1 empty shard, e.g. {root}/corpus/a.parquet. Add rows, or "
        "correct corpus.path.",
        files={"a.parquet": table(id=pa.array([], pa.string()), text=pa.array([], pa.string()))}),
    Row("no rows in lines",
        "The corpus {root}/corpus has no rows, only 2 empty shards, e.g. {root}/corpus/a.jsonl. Add rows, or "
        "correct corpus.path.", files={"a.jsonl": b"\n\n", "b.jsonl.gz": gzip.compress(b"")}),
    Row("a header alone",
        "The corpus {root}/corpus has no rows, only 1 empty shard, e.g. {root}/corpus/a.csv. Add rows, or "
        "correct corpus.path.", files={"a.csv": b"id,text\n"}),
    Row("no rows in the plan",
        "The corpus {root}/corpus has no rows, only 1 empty shard, e.g. {root}/corpus/a.txt. Add rows, or "
        "correct corpus.path.", command="plan {root}/job.yaml", files={"a.txt": b""}),
    # Columns and types
    Row("no text column",
        "{root}/corpus/a.parquet has no column 'text' (corpus.text). Did you mean 'txt'? It has: id, txt.",
        files={"a.parquet": table(id=["a"], txt=["x"])}),
    Row("no id column",
        "{root}/corpus/a.csv has no column 'id' (corpus.id). It has: key, text. If there are no ids, set "
        "corpus.id=null to number the rows.", files={"a.csv": b"key,text\n1,x\n"}),
    Row("no carried column",
        "{root}/corpus/a.parquet has no column 'meta.titel' (corpus.carry). Did you mean 'meta.title'? It has: "
        "id, text, meta, meta.title.", overrides=("corpus.carry=[meta.titel]",),
        files={"a.parquet": table(id=["a"], text=["x"], meta=[{"title": "t"}])}),
    Row("no column of a template",
        "{root}/corpus/a.jsonl has no column 'titel' (corpus.text). Did you mean 'title'? It has: id, title, "
        "text.", overrides=("corpus.text='{titel} {text}'",),
        files={"a.jsonl": jsonl([{"id": "a", "title": "t", "text": "x"}])}),
    Row("a column twice",
        "{root}/corpus/a.parquet has several columns 'text' (corpus.text); column names must be unique. Rename one of "
        "them.", files={"a.parquet": parquet(pa.table([["a"], ["x"], ["y"]], names=["id", "text", "text"]))}),
    Row("text is a number",
        "{root}/corpus/a.parquet: the text column 'text' is int64; it must be a string. Set corpus.text to another "
        "column.", files={"a.parquet": table(id=["a"], text=[1])}),
    Row("text is a list",
        "{root}/corpus/a.jsonl: the text column 'text' is list<item: string>; it must be a string. Set corpus.text to "
        "another column.", files={"a.jsonl": jsonl([{"id": "a", "text": ["x"]}])}),
    Row("id is a float",
        "{root}/corpus/a.parquet: the id column 'id' is double; ids must be strings, integers, whole "
        "decimals or UUIDs. Set corpus.id to another column, or to null to number the rows.",
        files={"a.parquet": table(id=[1.5], text=["x"])}),
    Row("ids of several types",
        "{root}/corpus/a.jsonl: the values of 'id' have several types ({*}). Use one type, for ids strings or "
        "integers, or set corpus.id and corpus.carry to other columns.",
        files={"a.jsonl": jsonl([{"id": "a", "text": "x"}, {"id": 1, "text": "x"}])}),
    Row("ids differ between shards",
        "{root}/corpus/good.jsonl: the id column 'id' is string, but the ids in other shards are int64. "
        "Convert the ids to one type, or set corpus.id=null to number the rows.",
        files={**GOOD, "h.parquet": table(id=[1], text=["x"])}),
    Row("carried types differ between shards",
        "{root}/corpus/b.parquet: the column 'n' is string, but in other shards it is int64. Convert "
        "it to one type, or remove it from corpus.carry.", overrides=("corpus.carry=[n]",),
        files={"a.parquet": table(id=["a"], text=["x"], n=[1]), "b.parquet": table(id=["b"], text=["x"], n=["1"])}),
    Row("columns differ between shards",
        "{root}/corpus/h.jsonl has no column 'text' (corpus.text). Did you mean 'txt'? It has: id, txt.",
        files={**GOOD, "h.jsonl": jsonl([{"id": "a", "txt": "x"}])}),
    Row("wrong delimiter",
        "{root}/corpus/a.csv has no column 'id' (corpus.id). It has: key;text. If this is the whole header of a CSV, "
        "set corpus.delimiter to its separator.", files={"a.csv": b"key;text\na;x\n"}),
    # Damaged files, found while planning
    Row("empty Parquet file",
        "corpus.path {root}/corpus has no readable files, only 1 file: 1 without a byte, e.g. {root}/corpus/a.parquet. "
        "Correct corpus.path or corpus.format, or write the files again.",
        files={"a.parquet": b""}),
    Row("no Parquet file",
        "{root}/corpus/a.parquet is not a readable Parquet file: {*}. Replace it, or remove it from the corpus.",
        files={"a.parquet": b"id,text\na,x\n"}),
    Row("Parquet cut off",
        "{root}/corpus/a.parquet is not a readable Parquet file: {*}. Replace it, or remove it from the corpus.",
        files={"a.parquet": table(id=["a"] * 999, text=["x"] * 999)[:-40]}),
    Row("Parquet footer damaged",
        "{root}/corpus/a.parquet is not a readable Parquet file: {*}. Replace it, or remove it from the corpus.",
        files={"a.parquet": table(id=["a"], text=["x"])[:-60] + bytes(52) + table(id=["a"], text=["x"])[-8:]}),
    Row("JSON, not lines",
        "{root}/corpus/a.jsonl is not JSON Lines: its first line is no whole JSON value. Write one object per line: "
        "`jq -c '.[]'` converts a JSON array, `jq -c .` an object over several lines. If it holds no "
        "documents, name the others by a pattern in corpus.path.",
        files={"a.jsonl": json.dumps([{"id": "a", "text": "x"}], indent=1).encode()}),
    Row("plain data called gz",
        "{root}/corpus/a.jsonl.gz cannot be decompressed: {*}. It is damaged, truncated or not a gzip file. Replace "
        "it, or correct its name.", files={"a.jsonl.gz": GOOD["good.jsonl"]}),
    Row("plain data called zst",
        "{root}/corpus/a.jsonl.zst cannot be decompressed: {*}. It is damaged, truncated or not a zstd file. Replace "
        "it, or correct its name.", files={"a.jsonl.zst": GOOD["good.jsonl"]}),
    Row("gzip cut off",
        "{root}/corpus/a.jsonl.gz cannot be decompressed: {*}. It is damaged, truncated or not a gzip file. Replace "
        "it, or correct its name.", files={"a.jsonl.gz": gzip.compress(GOOD["good.jsonl"])[:-9]}),
    Row("zstd cut off",
        "{root}/corpus/a.jsonl.zst cannot be decompressed: {*}. It is damaged, truncated or not a zstd file. Replace "
        "it, or correct its name.", files={"a.jsonl.zst": zstd(GOOD["good.jsonl"])[:-9]}),
    Row("gzip checksum wrong",
        "{root}/corpus/a.jsonl.gz cannot be decompressed: {*}. It is damaged, truncated or not a gzip file. Replace "
        "it, or correct its name.", files={"a.jsonl.gz": gzip.compress(GOOD["good.jsonl"])[:-8] + bytes(8)}),
    Row("quote not closed",
        "{root}/corpus/a.csv: the CSV record near line 3 cannot be parsed ({*}); usually a quote is not doubled or "
        "not closed. Correct the file, or set corpus.quote=null if it does not quote fields, or corpus.delimiter if "
        "its columns have another separator.", files={"a.csv": b'id,text\na,x\nb,"y\nc,z\n'}),
    # The model
    Row("no model folder",
        "model.path: the folder {cwd}/modell does not exist. Give an existing folder or a model hub name.",
        overrides=("model.path=./modell",)),
    Row("no model folder, no hub name",
        "model.path: models/x/y is neither a folder on this machine ({cwd}/models/x/y), nor an s3:// prefix, nor a "
        "model hub name (owner/name).", overrides=("model.path=models/x/y",)),
    Row("no such package",
        "model.path: package:minilm/model needs the Python package minilm, which is not installed on this node.",
        overrides=("model.path=package:minilm/model",)),
    Row("no model in the folder",
        "{root}/corpus is not a model folder: it has no config.json. Set model.path to a model folder.",
        overrides=("model.path={root}/corpus",)),
    Row("not in the hub's cache",
        "model.path: nobody/nothing cannot be downloaded from the model hub ({*}), and there is no folder "
        "{cwd}/nobody/nothing. Check the name, the revision and, "
        "for a gated model, HF_TOKEN. Without a network: download it elsewhere with `hf download nobody/nothing`, "
        "copy the folder here and set model.path to it.", overrides=("model.path=nobody/nothing",)),
    Row("no weights",
        "{root}/model has no weights (model.safetensors or its shards). Fetch the whole model, or correct "
        "model.path.", prepare=model(without=["model.safetensors"]), overrides=MODEL),
    Row("pickled weights alone",
        "{root}/model has its weights only as pickle files (.bin, .pt), which can run code when they are loaded. "
        "Convert them to model.safetensors, or use a revision of the model that has it.",
        prepare=model(without=["model.safetensors"], put={"pytorch_model.bin": b"x"}), overrides=MODEL),
    Row("weights incomplete",
        "The weights in {root}/model are incomplete: model-00002-of-00002.safetensors is missing. Fetch the "
        "model again.",
        prepare=model(
            without=["model.safetensors"],
            put={"model-00001-of-00002.safetensors": b"x", "model.safetensors.index.json": HALF_INDEX},
        ), overrides=MODEL),
    Row("remote code",
        "{root}/model/config.json asks for code from the repository (auto_map), which is never run. Use a model "
        "whose architecture is part of transformers, or a copy without auto_map if it is.",
        prepare=edited_model("config.json", auto_map={"AutoModel": "modeling.X"}), overrides=MODEL),
    Row("unknown module",
        "{root}/model/modules.json lists a module CNN (sentence_transformers.models.CNN), which is not supported: "
        "vectors without it would be wrong. Supported types: Transformer, Pooling, Normalize, Dense, LayerNorm, "
        "Dropout.",
        prepare=model(put={"modules.json": b'[{"type": "sentence_transformers.models.CNN", "path": "2_CNN"}]'}),
        overrides=MODEL),
    Row("model config damaged", "{root}/model/config.json is not valid JSON ({*}). Fetch the model again.",
        prepare=model(put={"config.json": b'{"model_type": '}), overrides=MODEL),
    Row("no tokenizer",
        "{root}/model holds neither tokenizer.json nor tokenizer.model (found: vocab.txt). Save the tokenizer there "
        "once with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        prepare=model(without=["tokenizer.json"], put={"vocab.txt": b"x"}), overrides=MODEL),
    Row("tokenizer damaged", "{root}/model/tokenizer.json cannot be read ({*}). Fetch the model again.",
        prepare=model(put={"tokenizer.json": b"{}"}), overrides=MODEL),
    Row("pooling contradicts",
        "model.pooling is cls in the config, but {small}/1_Pooling/config.json says mean. Remove model.pooling to "
        "use the pooling that the model was trained with.", overrides=("model.pooling=cls",)),
    Row("max_length above the model's", "model.max_length is 1024 in the config, but max_seq_length is 256 in "
        "{small}/sentence_bert_config.json. Set model.max_length to at most 256, or remove it.",
        overrides=("model.max_length=1024",)),
    # The table
    Row("table of another model", "{root}/table holds vectors made with other settings:\n"
        '  weights: {"model.safetensors":"{*} in the table, {"model.safetensors":"{*} in the config\n'
        "A table with both kinds of vectors would be silently wrong. Change the settings back, or write to a new "
        "table: table.path=<another path>.", prepare=both(embedded, model(put={"model.safetensors": b"others"})),
        overrides=MODEL),
    Row("table of other settings", "{root}/table holds vectors made with other settings:\n"
        "  max_length: 256 in the table, 128 in the config\n"
        '  vector_dtype: "float32" in the table, "float16" in the config\n'
        "A table with both kinds of vectors would be silently wrong. Change the settings back, or write to a new "
        "table: table.path=<another path>.", prepare=embedded,
        overrides=("model.max_length=128", "table.vector_dtype=float16")),
    Row("table with other ids",
        "{root}/corpus/good.jsonl: the id column 'id' is int64, but the ids in the table are string. "
        "Convert the ids to string, or write to a new table: table.path=<another path>.",
        prepare=both(embedded, put("corpus/good.jsonl", b'{"id": 1, "text": "x"}\n'))),
    Row("table.json damaged",
        "{root}/table/_sfr/table.json is damaged: {*}. Restore it from a copy. Without one, remove it: `sfr-batch "
        "repair CONFIG` then shows what it takes to make it anew, and with --write it does so.",
        prepare=put("table/_sfr/table.json", b'{"format_ver')),
    Row("table.json of somebody else",
        "{root}/table/_sfr/table.json is not a valid record: created_at: Field required; fingerprint: Field "
        "required; fingerprint_inputs: Field required. Restore it from a copy. Without one, remove it: `sfr-batch "
        "repair CONFIG` then shows what it takes to make it anew, and with --write it does so.",
        prepare=put("table/_sfr/table.json", b'{"name": "x"}')),
    Row("table.json is newer",
        "{root}/table/_sfr/table.json has table format 6; this sfr-batch reads up to 5: upgrade.",
        prepare=put("table/_sfr/table.json", b'{"format_version": 6}')),
    Row("table is a file",
        "Cannot read {root}/job.yaml/_sfr/table.json: a file is where a folder should be; correct the path.",
        overrides=("table.path={root}/job.yaml",)),
    Row("table below a file",
        "Cannot read {root}/job.yaml/table/_sfr/table.json: a file is where a folder should be; correct the path.",
        overrides=("table.path={root}/job.yaml/table",)),
    Row("others' files in data/",
        "There is no table at {root}/table yet, but data/ has 1 other file, e.g. data/others.parquet. Set "
        "table.path to an empty folder or prefix.", prepare=put("table/data/others.parquet", b"x")),
    Row("a snapshot damaged",
        "{root}/table/_sfr/snapshots/00000001.json is damaged: {*}. Restore it from a copy. Without one: if it is of "
        "the newest snapshot, `sfr-batch repair CONFIG` shows what it takes to publish the rows anew; else `sfr-batch "
        "expire` gives the snapshot up.", prepare=both(embedded, put("table/_sfr/snapshots/00000001.json", b"{"))),
    Row("status without a table",
        "There is no table at {root}/tabel (no _sfr/table.json). Check the path, or create it with `sfr-batch "
        "embed`.", command="status {root}/tabel"),
    Row("search without a table",
        "There is no table at {root}/tabel (no _sfr/table.json). Check the path, or create it with `sfr-batch "
        "embed`.", command="search {root}/tabel cats"),
    Row("search without a snapshot",
        "Nothing has been published in {root}/table yet. `sfr-batch status {root}/table` shows the progress of its "
        "run. To complete the run, repeat the same `sfr-batch embed`.", command="search {root}/table cats",
        prepare=lambda bench: (embedded(bench), (bench.root / "table/_sfr/snapshots/00000001.json").unlink())),
    Row("query is not Unicode", "The query is not valid Unicode at character 1; type it again.", code=2,
        command="search {root}/table a\udcffb", prepare=embedded),
    # S3
    Row("no such bucket for the corpus",
        "Cannot list s3://sfr-no-such-bucket/corpus: there is no such bucket; create it or correct the path.",
        prepare=s3(), overrides=("corpus.path=s3://sfr-no-such-bucket/corpus",)),
    Row("no such bucket for the table",
        "Cannot read s3://sfr-no-such-bucket/table/_sfr/table.json: there is no such bucket; create it or "
        "correct the path.", prepare=s3(), overrides=("table.path=s3://sfr-no-such-bucket/table",)),
    Row("nothing in the bucket",
        "corpus.path {bucket}/corpse matches no files. Correct the path. Names that begin with _ or . are "
        "skipped.", prepare=s3(), overrides=("corpus.path={bucket}/corpse",)),
    Row("no key",
        "Cannot list {bucket}/corpus: this process has no S3 credentials. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or give the machine a role; on a cluster that holds for every node.",
        prepare=both(s3(), without_keys), overrides=S3_CORPUS),
    Row("unknown key",
        "Cannot list {bucket}/corpus: access denied ({*}); check the credentials, the bucket policy and the "
        "endpoint.", prepare=both(s3(), environment(SFR_ID="nobody", SFR_SECRET="wrong")),
        overrides=(*S3_CORPUS, "corpus.storage={access_key_id: '${SFR_ID}', secret_access_key: '${SFR_SECRET}'}")),
    Row("wrong secret",
        "Cannot list {bucket}/corpus: access denied ({*}); check the credentials, the bucket policy and the "
        "endpoint.", prepare=both(s3(), environment(SFR_ID="test-key-id", SFR_SECRET="wrong")),
        overrides=(*S3_CORPUS, "corpus.storage={access_key_id: '${SFR_ID}', secret_access_key: '${SFR_SECRET}'}")),
    Row("no such profile", "Cannot list {bucket}/corpus: {*}; check credentials, endpoint and region.", prepare=s3(),
        overrides=(*S3_CORPUS, "corpus.storage.profile=nobody")),
    Row("anonymous",
        "Cannot list {bucket}/corpus: access denied ({*}); check the credentials, the bucket policy and the "
        "endpoint, and, if who reads this bucket has to pay, storage.requester_pays.", prepare=s3(),
        overrides=(*S3_CORPUS, "corpus.storage.anonymous=true")),
    Row("nobody at the endpoint",
        "Cannot list {bucket}/corpus: tried 2 times over {*} s, the last time: connection ({*}http://127.0.0.1:{port}/"
        "{*}). Check endpoint, region and network, and run the command again; storage.attempts (2) and "
        "storage.give_up_after_s (120) limit the retries.", prepare=both(s3(), closed_port),
        overrides=(*S3_CORPUS, "corpus.storage={endpoint_url: 'http://127.0.0.1:{port}', attempts: 2}")),
    Row("may list but not read",
        "Cannot read {bucket}/corpus/good.jsonl: access denied ({*}); check the credentials, the bucket policy "
        "and the endpoint, and, if who reads this bucket has to pay, storage.requester_pays.",
        prepare=s3(deny=("GetObject", "corpus/*")), overrides=S3_CORPUS),
    Row("may read but not write",
        "Cannot write {bucket}/table/_sfr/probe/{*}: access denied ({*}); check the credentials, the bucket "
        "policy and the endpoint.", prepare=s3(public=True),
        overrides=(*S3_CORPUS, "table.path={bucket}/table", "table.storage.anonymous=true")),
    Row("may write but no data",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the "
        "same command continues with the rest.\n"
        "  {bucket}/corpus/good.jsonl: Cannot write {bucket}/table/data/{*}.parquet: access denied ({*}); check "
        "the credentials, the bucket policy and the endpoint.", "run", prepare=s3(deny=("PutObject", "table/data/*")),
        overrides=(*S3_CORPUS, "table.path={bucket}/table"), repair=allow),
    # While it runs
    Row("one shard of two damaged",
        "1 of 2 splits did not finish. Nothing was published. Committed: 1 split; the same command "
        "continues with the rest.\n  {root}/corpus/a.parquet cannot be read: {*}. If it is damaged, replace it or "
        "remove it from the "
        "corpus.", "run", files={**GOOD, "a.parquet": flipped(table(id=["a"], text=["A. " * 99]))}, ids=["a", *IDS],
        repair=put("corpus/a.parquet", table(id=["a"], text=["A."]))),
    Row("page damaged",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/a.parquet cannot be read: {*}. If it is damaged, replace it or "
        "remove it from the "
        "corpus.", "run", files={"a.parquet": flipped(table(id=IDS, text=["One. " * 99, "Two. " * 99]))},
        repair=good_parquet),
    Row("page damaged, with checksum",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/a.parquet cannot be read: {*}. If it is damaged, replace it or "
        "remove it from the corpus.", "run",
        files={
            "a.parquet": flipped(
                table(id=IDS, text=["One.", "Two."], compression="none", write_page_checksum=True),
                b"One.",
            )
        }, repair=good_parquet),
    Row("gzip cut off far inside",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/a.jsonl.gz cannot be read: {*}. If it is damaged, replace it or "
        "remove it from the corpus.", "run", files={"a.jsonl.gz": gzip.compress(NOISE)[:-2000]},
        repair=lambda bench: bench.put("corpus/a.jsonl.gz", gzip.compress(GOOD["good.jsonl"])), overrides=LARGE),
    Row("zstd cut off far inside",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/a.jsonl.zst cannot be read: {*}. If it is damaged, replace it or "
        "remove it from the corpus.", "run", files={"a.jsonl.zst": zstd(NOISE)[:-2000]},
        repair=lambda bench: bench.put("corpus/a.jsonl.zst", zstd(GOOD["good.jsonl"])), overrides=LARGE),
    Row("quote not closed far inside",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/a.csv: the CSV record near line 3 cannot be parsed ({*}); usually "
        "a quote is not doubled or not closed. Correct the file, or set corpus.quote=null if it does not quote "
        "fields, or corpus.delimiter if its columns have another separator.", "run",
        files={"a.csv": b"id,text\none,One.\n" + b'two,"Two.\n' * 40_000},
        repair=lambda bench: bench.put("corpus/a.csv", b"id,text\none,One.\ntwo,Two.\n")),
    Row("shard replaced",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/good.jsonl was replaced during the run. Run the command "
        "again.", "run",
        prepare=meanwhile(lambda bench: bench.put("corpus/good.jsonl", GOOD["good.jsonl"] + b"\n"))),
    Row("shard replaced between its splits",
        "1 of 2 splits did not finish. Nothing was published. Committed: 1 split; the same command "
        "continues with the rest.\n  {root}/corpus/a.parquet was replaced during the run. Run the command "
        "again.", "run",
        files={"a.parquet": table(id=IDS, text=["One.", "Two."])}, overrides=("run.rows_per_split=1",),
        prepare=between_splits(put("corpus/a.parquet", table(id=IDS, text=["Uno.", "Dos. And more."])))),
    Row("shard gone",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command "
        "continues with the rest.\n  {root}/corpus/good.jsonl was deleted after the run was planned. Run the command "
        "again.", "run",
        prepare=meanwhile(lambda bench: (bench.root / "corpus/good.jsonl").rename(bench.root / "corpus/new.jsonl"))),
    Row("data file gone", "{root}/table/data/{*}.parquet is missing; run the command again.", "run",
        prepare=before_publishing(lambda bench: [f.unlink() for f in (bench.table / "data").iterdir()])),
    Row("weights cut off",
        "{root}/model/model.safetensors is damaged: it has 20,000 bytes, but its header describes {*}. "
        "Remove it and fetch the model again.", "run",
        prepare=cut_off,
        overrides=MODEL, repair=("model.path={small}", "table.path={root}/new")),
    Row("weights of another model",
        "The weights in {root}/model do not fit config.json: {*} tensors missing or with another shape ({*}). Fetch "
        "the model again.", "run", prepare=edited_model("config.json", intermediate_size=200),
        overrides=MODEL, repair=("model.path={small}", "table.path={root}/new")),
    Row("no space left",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the "
        "same command continues with the rest.\n"
        "  {root}/corpus/a.jsonl: Cannot write {root}/table/data/{*}.parquet: no space left; free some and run "
        "the command again.", "run", files={"a.jsonl": MANY}, prepare=small_disk, repair=larger_disk,
        overrides=MINILM, ids=[f"n{n}" for n in range(40)]),
    Row("no space left to publish",
        "Cannot write {root}/table/_sfr/snapshots/00000001-{*}.files.parquet: no space left; free some and run "
        "the command again.", "run", prepare=small_disk, repair=larger_disk),
    Row("file size limit",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the "
        "same command continues with the rest.\n"
        "  {root}/corpus/good.jsonl: Cannot write {root}/table/data/{*}.parquet: the file would be larger than "
        "this process may write (ulimit -f); raise the limit and run the command again.", "run", prepare=limited,
        repair=unlimited, overrides=MINILM),
    Row("read-only",
        "Cannot write {root}/table/_sfr/table.json: the file system is read-only; choose another path, or mount "
        "it for writing.", "plan", prepare=read_only),
    Row("duplicates are errors",
        "Duplicate ids in 1 row, e.g. 'one', and table.duplicate_ids is 'error'. Correct the corpus, or set "
        "table.duplicate_ids to 'reject' to keep the first row of each id.", "run",
        files=lines({"id": "one", "text": "x"}), overrides=("table.duplicate_ids=error",),
        repair=("table.duplicate_ids=reject", "run.max_reject_share=1"),
        rejects=[("one", 0, "duplicate_id", DUPLICATE.format(0))]),
    Row("too many rejects",
        "2 of 4 rows (50.0%) cannot be embedded, and run.max_reject_share allows 10.0%. Nothing was published; "
        "embedded splits stay committed.\n"
        "  empty_text: 1, e.g. at 0 of {root}/corpus/bad.jsonl: the text is empty or only white space\n"
        "  bad_json: 1, e.g. at 24 of {root}/corpus/bad.jsonl: the line is not JSON: Expecting value: line 1 "
        "column 1 (char 0)\n"
        "Correct the corpus or the config (all rejects so far: {root}/table/_rejects/), or accept them with "
        "run.max_reject_share=0.5.", "run", files=lines({"id": "a", "text": ""}, "oops"),
        repair=("run.max_reject_share=0.5",),
        rejects=[
            ("a", 0, "empty_text", "the text is empty or only white space"),
            (None, 24, "bad_json", "the line is not JSON: {*}"),
        ]),
    Row("all rejects",
        "200 of 200 rows (100.0%) cannot be embedded, and run.max_reject_share allows 10.0%. Nothing was "
        "published; embedded splits stay committed.\n"
        "  empty_text: 200, e.g. at 0 of {root}/corpus/a.jsonl: the text is empty or only white space\n"
        "Correct the corpus or the config (all rejects so far: {root}/table/_rejects/), or accept them with "
        "run.max_reject_share=1.", "run", files={"a.jsonl": jsonl([{"id": "a", "text": ""}] * 200)},
        repair=put("corpus/a.jsonl", GOOD["good.jsonl"])),
    # Rows that cannot be embedded
    Row("null id", phase="reject", files=lines({"id": None, "text": "x"}),
        rejects=[(None, 0, "null_id", "the id is null")]),
    Row("no id", phase="reject", files=lines({"id": "three", "text": "Three."}, {"text": "x"}), ids=[*IDS, "three"],
        rejects=[(None, 34, "null_id", "the id is null")]),
    Row("empty id", phase="reject", files=lines({"id": "", "text": "x"}),
        rejects=[("", 0, "null_id", "the id is empty")]),
    Row("empty id in a CSV", phase="reject", files={"a.csv": b"id,text\n,x\none,One.\ntwo,Two.\n"},
        rejects=[("", 0, "null_id", "the id is empty")]),
    Row("null id in Parquet", phase="reject",
        files={**GOOD, "b.parquet": table(id=pa.array([None], pa.string()), text=["x"])},
        rejects=[(None, 0, "null_id", "the id is null")]),
    Row("id of another type", phase="reject",
        files={
            "a.jsonl": jsonl(
                [
                    {"id": 1, "text": "x " * 100_000},
                    {"id": 2, "text": "y " * 100_000},
                    {"id": "x", "text": "x"},
                    {"id": 1.5, "text": "x"},
                    {"id": True, "text": "x"},
                ]
            )
        }, ids=[1, 2],
        rejects=[
            ("x", 400_044, "bad_id", NOT_INT.format("str")),
            ("1.5", 400_069, "bad_id", NOT_INT.format("float")),
            ("True", 400_094, "bad_id", NOT_INT.format("bool")),
        ]),
    Row("id too large", phase="reject", files={"a.jsonl": jsonl([{"id": 1, "text": "x"}, {"id": 2**70, "text": "x"}])},
        ids=[1], rejects=[(str(2**70), 23, "bad_id", "the id does not fit into 64 bits")]),
    Row("id with a surrogate", phase="reject", files=lines('{"id": "a\\udc00", "text": "x"}'),
        rejects=[("a?", 0, "bad_id", NOT_UNICODE.format("id", 1))]),
    Row("same id in a shard", phase="reject",
        files={
            "a.jsonl": jsonl(
                [
                    {"id": "one", "text": "One."},
                    {"id": "one", "text": "One."},
                    {"id": "two", "text": "Two."},
                ]
            )
        }, rejects=[("one", 1, "duplicate_id", DUPLICATE.format(1))]),
    Row("same id in two shards", phase="reject", files={**GOOD, "h.csv": b"text,id\nx,two\n"},
        rejects=[("two", 0, "duplicate_id", DUPLICATE.format(0))]),
    Row("same id three times", phase="reject", files={**GOOD, "h.csv": b"text,id\nx,two\ny,two\n"},
        rejects=[("two", 0, "duplicate_id", DUPLICATE.format(0)), ("two", 1, "duplicate_id", DUPLICATE.format(1))]),
    Row("null text", phase="reject", files=lines({"id": "a", "text": None}),
        rejects=[("a", 0, "null_text", "the text is null")]),
    Row("no text", phase="reject", files=lines({"id": "a", "text": "x"}, {"id": "b"}), ids=["a", *IDS],
        rejects=[("b", 25, "null_text", "the text is null")]),
    Row("null text in Parquet", phase="reject",
        files={**GOOD, "b.parquet": table(id=["a"], text=pa.array([None], pa.string()))},
        rejects=[("a", 0, "null_text", "the text is null")]),
    Row("empty text", phase="reject", files=lines({"id": "a", "text": ""}),
        rejects=[("a", 0, "empty_text", "the text is empty or only white space")]),
    Row("white space", phase="reject", files={**GOOD, "b.parquet": table(id=["a"], text=[" \t\r\n\u3000\u00a0"])},
        rejects=[("a", 0, "empty_text", "the text is empty or only white space")]),
    Row("nothing in the template", phase="reject",
        files={"a.jsonl": jsonl([{"id": "a", "title": "", "text": " "}, {"id": "b", "title": "B.", "text": ""}])},
        ids=["b"], overrides=("corpus.text='{title} {text}'",),
        rejects=[("a", 0, "empty_text", "the text is empty or only white space")]),
    Row("text with a surrogate", phase="reject", files=lines('{"id": "a", "text": "x\\ud800"}'),
        rejects=[("a", 0, "bad_text", NOT_UNICODE.format("text", 1))]),
    Row("text is no text", phase="reject",
        files=lines(
            {"id": "a", "text": "x"},
            {"id": "b", "text": 5},
            {"id": "c", "text": ["x"]},
            {"id": "d", "text": {"x": 1}},
            {"id": "e", "text": True},
        ), ids=["a", *IDS],
        rejects=[
            ("b", 25, "bad_text", "text is a JSON number, not a string"),
            ("c", 48, "bad_text", "text is a JSON array, not a string"),
            ("d", 75, "bad_text", "text is a JSON object, not a string"),
            ("e", 105, "bad_text", "text is a JSON boolean, not a string"),
        ]),
    Row("not UTF-8 in Parquet", phase="reject", files={**GOOD, "b.parquet": table(id=["a"], text=not_utf8())},
        rejects=[("a", 0, "bad_text", "bytes that are not UTF-8: {*}")]),
    Row("not UTF-8 in JSON", phase="reject",
        files={**GOOD, "b.jsonl": b'{"id": "a", "text": "caf\xe9"}\n{"id": "b", "text": "x"}\n'}, ids=["b", *IDS],
        rejects=[(None, 0, "bad_json", "the line is not JSON: {*}")]),
    Row("not UTF-8 in a CSV", phase="reject", files={**GOOD, "b.csv": b"id,text\na,caf\xe9\n"},
        rejects=[("a", 0, "bad_text", NOT_UNICODE.format("text", 3))]),
    Row("not UTF-8 in text", phase="reject", files={"a.txt": b"One.\ncaf\xe9\n"}, ids=["{root}/corpus/a.txt#0"],
        rejects=[(None, 5, "bad_text", "bytes that are not UTF-8: {*}")]),
    Row("not JSON", phase="reject", files=lines({"id": "a", "text": "x"}, '{"id": "b", "te'), ids=["a", *IDS],
        rejects=[(None, 25, "bad_json", "the line is not JSON: {*}")]),
    Row("JSON, but no object", phase="reject", files=lines({"id": "a", "text": "x"}, "[1]", "null"), ids=["a", *IDS],
        rejects=[
            (None, 25, "bad_json", "the line is a JSON array, not an object"),
            (None, 29, "bad_json", "the line is a JSON null, not an object"),
        ]),
    Row("JSON too deep", phase="reject", files=lines({"id": "a", "text": "x"}, "[" * 100_000), ids=["a", *IDS],
        rejects=[(None, 25, "bad_json", "the line is not JSON: {*}")]),
    Row("too few fields", phase="reject", files={"a.csv": b"id,text\none,One.\ntwo,Two.\na\nb,x,y\n"},
        rejects=[
            (None, 2, "bad_csv", "the record has 1 fields, the header 2"),
            (None, 3, "bad_csv", "the record has 3 fields, the header 2"),
        ]),
    Row("carried column of another type", phase="reject",
        files={
            "a.jsonl": jsonl(
                [{"id": "one", "text": "x", "n": 1}, {"id": "two", "text": "y", "n": None}]
            ),
            "b.jsonl": jsonl([*FAR_DOWN, {"id": "a", "text": "x", "n": "many"}]),
        }, overrides=("corpus.carry=[n]",), ids=[*IDS, "far0", "far1"],
        rejects=[("a", 400_070, "bad_column", "n is not int64: {*}")]),
    Row("carried types differ between files of lines",
        "{root}/corpus/b.jsonl: the column 'n' is string, but in other shards it is int64. Convert it "
        "to one type, or remove it from corpus.carry.",
        files={"a.jsonl": jsonl([{"id": "one", "text": "x", "n": 1}]),
               "b.jsonl": jsonl([{"id": "two", "text": "y", "n": "many"}])}, overrides=("corpus.carry=[n]",)),
    Row("a key that the sample did not show", phase="reject",
        files={"a.jsonl": jsonl([{"id": f"far{n}", "text": "x " * 100_000, "n": {"a": n}} for n in range(2)]
               + [{"id": "a", "text": "x", "n": {"a": 1, "b": 2}}])}, overrides=("corpus.carry=[n]",),
        ids=["far0", "far1"],
        rejects=[("a", 400_084, "bad_column", "n has 'b', which struct<a: int64> has no place for")]),
    Row("UTF-16", "{root}/corpus/a.jsonl is UTF-16, which is not supported. Convert it to UTF-8: iconv -f UTF-16 -t "
        "UTF-8.", files={"a.jsonl": '{"id": "a", "text": "x"}\n'.encode("utf-16")}),
    Row("UTF-16 in a CSV", "{root}/corpus/a.csv is UTF-16, which is not supported. Convert it to UTF-8: iconv -f "
        "UTF-16 -t UTF-8.", files={"a.csv": "id,text\na,x\n".encode("utf-16")}),
    Row("a folder in itself", "{root}/corpus/sub/up is a link to a folder that contains it; remove it.",
        prepare=lambda bench: ((bench.root / "corpus/sub").mkdir(), (bench.root / "corpus/sub/up").symlink_to(".."))),
    Row("a file name that is not UTF-8", "{root}/corpus/?.csv: the name of this file is not UTF-8; rename it.",
        prepare=lambda bench: (bench.root / "corpus/\udcff.csv").write_bytes(b"id,text\n")),
    # Unusual, but good
    Row("one row", phase="done", files={"a.jsonl": b'{"id": 1, "text": "x"}'}, ids=[1]),
    Row("an empty shard", phase="done",
        files={
            **GOOD,
            "a.jsonl": b"",
            "b.parquet": table(x=pa.array([], pa.int64())),
            "c.csv": b"",
            "d.csv.gz": gzip.compress(b"id,text\n"),
        }),
    Row("NUL in text and id", phase="done", files=lines({"id": "a\0", "text": "a\0b"}, {"id": "b", "text": "\0"}),
        ids=["a\0", "b", *IDS]),
    Row("others' files beside the table", phase="done",
        prepare=both(put("table/README.md", b"x"), put("table/old/a.parquet", b"x"))),
    Row("blank lines and a mark", phase="done",
        files={"a.jsonl": b"\xef\xbb\xbf" + GOOD["good.jsonl"].replace(b"\n", b"\r\n\r\n")}),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)


@pytest.mark.slow
def test_document_of_10_mb(bench: Bench) -> None:
    """It is one row as any other: truncated, and both lengths are known. Not all its tokens are in the vector."""
    text = "the quick brown fox " * 500_000
    bench.put("corpus/a.jsonl", jsonl([{"id": "line", "text": text}]))
    bench.put("corpus/b.parquet", table(id=["row"], text=[text]))
    result = bench.run("embed {root}/job.yaml", ())
    assert result.exit_code == 0, result.output
    found = sfr.open_table(str(bench.table)).to_arrow(["id", "n_tokens", "n_tokens_full", "truncated"]).to_pylist()
    assert found == [
        {"id": id_, "n_tokens": 256, "n_tokens_full": 2_000_002, "truncated": True} for id_ in ("line", "row")
    ]
