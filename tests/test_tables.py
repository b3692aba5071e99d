"""Tables of text files as people have them: each row as it is, or one line that says what is wrong."""

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_transfer import TextDataModule
from lightning_transfer.data.hub import load_split
from lightning_transfer.data.reading.fingerprints import content_fingerprint
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.tables import read_tables
from lightning_transfer.errors import UserError

ROWS = {"text": ["good, really", "bad"], "label": [1, 0]}
PLAIN = b'text,label\n"good, really",1\nbad,0\n'


def read(content: bytes | str, name: str = "train.csv", **options: Any) -> dict[str, list[Any]]:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_tables([Path(name)], ReaderOptions(**options), ["text"]).to_dict()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", PLAIN),
        ("a.csv", b"\xef\xbb\xbf" + PLAIN),
        ("a.csv", PLAIN.decode().encode("utf-16")),
        ("a.csv", PLAIN.decode().encode("utf-16-le")),
        ("a.csv", PLAIN.decode().encode("utf-16-be")),
        ("a.csv", PLAIN.decode().encode("utf-32")),
        ("a.csv", PLAIN.replace(b"\n", b"\r\n")),
        ("a.csv", PLAIN.replace(b"\n", b"\r")),
        ("a.csv", PLAIN.rstrip() + b"\n\n\n"),
        ("a.csv", PLAIN.replace(b"text,label", b" text , label")),
        ("a.csv", b"text;label\ngood, really;1\nbad;0\n"),
        ("a.csv", b"sep=;\ntext;label\ngood, really;1\nbad;0\n"),
        ("a.csv", b'"sep=;"\r\ntext;label\r\ngood, really;1\r\nbad;0\r\n'),
        ("a.csv.gz", gzip.compress(PLAIN[:17], mtime=0) + gzip.compress(PLAIN[17:], mtime=0)),
        ("a.csv", b"text\tlabel\ngood, really\t1\nbad\t0\n"),
        ("a.tsv", b"text\tlabel\ngood, really\t1\nbad\t0\n"),
        ("a.txt", b"text\tlabel\ngood, really\t1\nbad\t0\n"),
        ("a.tsv", b"text|label\ngood, really|1\nbad|0\n"),
        ("a.csv.gz", gzip.compress(PLAIN, mtime=0)),
        ("a.csv.bz2", bz2.compress(PLAIN)),
        ("a.csv.xz", lzma.compress(PLAIN)),
        ("a.csv", gzip.compress(PLAIN, mtime=0)),
        ("a.csv.gz", PLAIN),
        ("a.jsonl", b'{"text": "good, really", "label": 1}\n\n{"label": 0, "text": "bad"}'),
        ("a.json", b'\xef\xbb\xbf[{"text": "good, really", "label": 1}, {"text": "bad", "label": 0}]'),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps({"data": [{"text": "good, really", "label": 1}, {"text": "bad", "label": 0}]}).encode()),
        ("a.json", json.dumps({name: dict(enumerate(column)) for name, column in ROWS.items()}, indent=1).encode()),
        ("a.json", b'{"text": {"0": "good, really", "1": "bad"}, "label": {"1": 0, "0": 1}}'),
        ("a.json", b'{"0": {"text": "good, really", "label": 1}, "1": {"label": 0, "text": "bad"}}'),
        ("a.csv", PLAIN.replace(b"\nbad", b"\n  \nbad") + b"\x1a"),
        (
            "a.csv",
            PLAIN.replace(b"text,label", b'label, "text"')
            .replace(b'"good, really",1', b'1, "good, really"')
            .replace(b"bad,0", b"0, bad"),
        ),
        ("a.ndjson.gz", gzip.compress(b'{"text": "good, really", "label": 1}\n{"label": 0, "text": "bad"}\n', mtime=0)),
        ("a.jsonl", '{"text": "good, really", "label": 1}\n{"label": 0, "text": "bad"}\n'.encode("utf-16")),
    ],
)
def test_table_is_read_whole_however_it_is_written(name: str, content: bytes) -> None:
    assert read(content, name) == ROWS


def test_zip_with_one_table_is_read_and_notes_of_macos_in_it_are_not() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/a.csv", PLAIN)
        archive.writestr("__MACOSX/folder/._a.csv", b"\0")
    assert read_tables([Path("a.zip")], texts=["text"]).to_dict() == ROWS


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_typed_tables_are_read_from_paths_with_brackets_and_blanks(suffix: str) -> None:
    folder = Path("my [new] *set")
    folder.mkdir()
    dataset = datasets.Dataset.from_dict(ROWS)
    if suffix == "parquet":
        dataset.to_parquet(folder / "a.parquet")
    else:
        dataset.save_to_disk("saved")
        shutil.copy("saved/data-00000-of-00001.arrow", folder / "a.arrow")
    assert read_tables([folder / f"a.{suffix}"]).to_dict() == ROWS


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"header": ["label", "text"]}, b'1,"good, really"\n0,bad\n'),
        ({"separator": "~"}, b"text~label\ngood, really~1\nbad~0\n"),
        ({"separator": r"\t"}, b"text\tlabel\ngood, really\t1\nbad\t0\n"),
        ({"encoding": "utf-16-le"}, PLAIN.decode().encode("utf-16-le")),
        ({"quoting": "single"}, b"text,label\n'good, really',1\nbad,0\n"),
        ({"quoting": "none", "separator": "\t"}, b"text\tlabel\ngood, really\t1\nbad\t0\n"),
    ],
)
def test_options_say_what_cannot_be_seen(options: dict[str, Any], content: bytes) -> None:
    assert read(content, **options) == ROWS


def test_table_without_a_header_keeps_its_first_row() -> None:
    assert read(b"3,fine\n1,bad\n", header=False) == {"0": [3, 1], "1": ["fine", "bad"]}


def test_missing_is_what_the_option_says_and_nothing_else() -> None:
    content = "text,label\nNA,null\nnan,None\n,\n-,N/A\n"
    assert read(content) == {"text": ["NA", "nan", None, "-"], "label": ["null", "None", None, "N/A"]}
    assert read(content, missing=("-", "N/A")) == {"text": ["NA", "nan", "", None], "label": ["null", "None", "", None]}


def test_escaped_quotation_marks_are_read_where_the_option_says_so() -> None:
    content = 'text,label\n"so \\"good\\", really",1\n'
    assert read(content, escape="\\")["text"] == ['so "good", really']
    with pytest.raises(UserError, match=r"line 2: a quotation mark .* or data.reader.escape"):
        read(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"Best,1\nbad,0\nfine,1\n"Worst,0\ngood,1\n'),
        ("a.csv", 'text,label\nso,0\nbad,1\nthe "end,1\n"never closed,0\n'),
        ("a.tsv", 'text\tlabel\n"Best" of all\t1\nbad\t0\n'),
        ("a.tsv", 'text\tlabel\nFirst\t1\n"Second\t2\nThird "sentence"\t3\nFourth\t4\n'),
        ("a.csv", 'text\n"Best" of all\nbad\n'),
    ],
)
def test_quotation_marks_that_are_text_join_no_rows(name: str, content: str) -> None:
    with pytest.warns(UserWarning, match="quotation marks are read as text, as the one in line"):
        found = read(content, name)
    separator = "\t" if name.endswith("tsv") else ","
    rows = [line.split(separator) for line in content.splitlines()[1:]]
    assert found["text"] == [row[0] for row in rows]
    assert list(map(str, found.get("label", []))) == [row[1] for row in rows if len(row) > 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\nso,0\n"Best,1\nbad,0\nlasts 5",1\ngood,1\n'),
        ("a.csv", 'text,label\nso,0\nwell,1\n",1\nbad,0\n",0\ngood,1\n'),
        ("a.csv", 'text,label\nso,neg\nwell,pos\n"Best,pos\nbad,neg\nlasts 5",pos\n'),
        ("a.csv", 'text,label\nso,0.5\nwell,0.25\n"Best,0.125\nbad,0.75\nlasts 5",1.0\n'),
        ("a.tsv", 'label\ttext\npos\tso\npos\t"Best\nneg\tbad\nneg\tlasts 5"\npos\tgood\n'),
        ("a.csv", 'text,label\n"a, b",1\nso,0\n"Best,1\nbad,0\nlasts 5",1\n'),
    ],
)
def test_cell_that_holds_lines_like_rows_is_refused_until_the_option_says_what_it_is(name: str, content: str) -> None:
    with pytest.raises(
        UserError, match=r"a\.[ct]sv, line \d: a cell in quotation marks holds lines that look like rows"
    ):
        read(content, name)
    assert len(read(content, name, quoting="double")["text"]) < content.count("\n") - 2
    if '"a, b"' not in content:
        assert len(read(content, name, quoting="none")["text"]) == content.count("\n") - 1


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"a, b",1\n"Best,1\nbad,0\n"Worst,0\n',  # others do need their marks
        'text,label\n"a",1\n"Best,1\nbad,0\n"Worst,0\n',
    ],
)
def test_quotation_mark_that_does_not_close_among_others_that_do_is_refused_with_its_line(content: str) -> None:
    with pytest.raises(UserError, match=r"train.csv, line 3: a quotation mark opens a cell") as error:
        read(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["one, two\nthree", "Dear Sir,\nthanks, for\n\nall", 'say "yes"\r\nor, no', "a\n", "flour, half\nsugar, much\nmix"],
)
def test_line_breaks_within_quoted_cells_stay(text: str) -> None:
    with Path("a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], [text, 1], ["plain", 0], ["also plain", 1]])
    assert read_tables([Path("a.csv")], texts=["text"])["text"][:] == [text, "plain", "also plain"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\na,1\nb,0,3\n", r"a.csv, line 3: 3 cells, expected 2 \(text, label\)"),
        ("a.csv", b"text,label\na,1\n\n\nb\n", r"a.csv, line 5: 1 cells, expected 2 \(text, label\)"),
        ("a.csv", b'text,label\n"a\nb",1\nc,1,2\n', "a.csv, line 4: 3 cells"),
        ("a.csv", b"text,label,text\na,1,b\n", "a.csv has 2 columns of the name 'text'"),
        ("a.csv", b"text,label\nok,1\ncaf\xe9,0\n", r"a.csv is not UTF-8 \(byte 0xe9 in line 3\): set data.reader.enc"),
        ("a.csv.gz", gzip.compress(PLAIN * 99, mtime=0)[:60], "a.csv.gz cannot be read: .*; copy it again"),
        ("a.csv.gz", gzip.compress(PLAIN, mtime=0)[:-5] + b"xxxxx", "a.csv.gz cannot be read: .*; copy it again"),
        ("a.csv.xz", lzma.compress(PLAIN)[:-20], "a.csv.xz cannot be read: .*; copy it again"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "a.jsonl, line 1: an object has the key 'text' twice"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a.jsonl, line 2 is \[1\]: expected an object"),
        ("a.json", b'[{"text": "a"}, "b"]', 'a.json: row 1 is "b", expected an object'),
        ("a.json", b'[{"text": "a"}', "a.json is not JSON: "),
        ("a.csv", b"text,label,more\na,1,\nb,0,,\n", r"line 3: 4 cells, expected 3 \(text, label, more\)"),
        ("a.json", b"[" * 100_000, "a.json nests lists too deeply"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"a.jsonl holds '\\ud83d', half of a character: expected Unicode"),
        ("a.zip", b"PK\x03\x04 and no more", "a.zip cannot be read: "),
    ],
)
def test_table_that_cannot_be_read_whole_is_refused_in_one_line(name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(content, name)
    assert "\n" not in str(error.value)


def test_zip_with_several_tables_is_refused() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)
    with pytest.raises(UserError, match=r"a.zip holds 2 files: expected one table"):
        read_tables([Path("a.zip")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "::"}, "data.reader.separator is '::': expected a single character"),
        ({"separator": ""}, "data.reader.separator is '': expected a single character"),
        ({"encoding": "utf-9"}, "data.reader.encoding is 'utf-9': expected the name of an encoding"),
    ],
)
def test_reader_option_out_of_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReaderOptions(**options)


def test_column_of_numbers_becomes_numbers_only_where_it_says_the_same() -> None:
    content = (
        "text,whole,share,padded,large,signed,mixed\n12,1,1.5,007,12345678901234567890,+1,1\n1.10,-2,2,12,1,-1,x\n"
    )
    assert read(content) == {
        "text": ["12", "1.10"],
        "whole": [1, -2],
        "share": [1.5, 2.0],
        "padded": ["007", "12"],
        "large": ["12345678901234567890", "1"],
        "signed": ["+1", "-1"],
        "mixed": ["1", "x"],
    }


def test_line_separators_of_unicode_end_no_row() -> None:
    text = "one\u2028two\x0bthree\x85four"
    assert read(f"text,label\n{text},1\n")["text"] == [text]
    assert read(json.dumps({"text": text, "label": 1}, ensure_ascii=False), "a.jsonl")["text"] == [text]


def test_cell_that_a_column_of_json_does_not_have_is_missing() -> None:
    content = '{"text": {"0": "a", "1": "b", "2": "c"}, "label": {"2": 5, "0": 4}}'
    assert read(content, "a.json") == {"text": ["a", "b", "c"], "label": [4, None, 5]}


def test_texts_beside_numbers_in_json_are_texts() -> None:
    lines = [{"text": "a", "label": 1}, {"text": 5, "label": "1"}, {"text": None}]
    found = read("\n".join(map(json.dumps, lines)), "a.jsonl")
    assert found == {"text": ["a", "5", None], "label": ["1", "1", None]}


def test_cells_of_any_length_and_zero_bytes_are_read() -> None:
    long = "word " * 100_000
    assert read(f"text,label\n{long},1\na\0b,0\n")["text"] == [long, "a\0b"]


def test_table_with_one_column_is_not_divided() -> None:
    assert read("text\nI like, it\nno; really\tnot\n") == {"text": ["I like, it", "no; really\tnot"]}


def test_texts_that_arrow_keeps_as_views_are_texts() -> None:
    table = pa.table({"text": pa.array(ROWS["text"], pa.string_view()), "label": ROWS["label"]})
    pq.write_table(table, "train.parquet")
    found = load_split(".", "train")
    assert found.to_dict() == ROWS
    assert found.features["text"] == datasets.Value("large_string")


def test_column_that_data_sets_have_no_type_for_is_left_out_by_name() -> None:
    more = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({**ROWS, "more": more}), "train.parquet")
    with pytest.warns(
        UserWarning, match=r"train\.parquet: columns left out, .* no type for them: more \(map<string, int"
    ):
        found = load_split(".", "train")
    assert found.to_dict() == ROWS


def test_file_without_a_byte_is_an_empty_split() -> None:
    Path("train.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"split 'train' of data set '.' is empty"):
        load_split(".", "train", text_column="text")


def test_columns_without_a_name_have_their_number() -> None:
    assert read(",text,label,\n7,a,1,\n") == {"0": [7], "text": ["a"], "label": [1], "3": [None]}


def test_files_of_a_split_are_joined_by_the_names_of_their_columns() -> None:
    Path("train-0.csv").write_text("text,label\na,0\n")
    Path("train-1.csv").write_text("label,text\nsome,b\n")
    found = load_split(str(Path.cwd()), "train", texts=["text"]).to_dict()
    assert found == {"text": ["a", "b"], "label": ["0", "some"]}


def test_message_for_a_missing_column_names_the_way_out_for_a_table_without_a_header() -> None:
    Path("train.csv").write_text("fine film,1\nbad film,0\n")
    with pytest.raises(UserError, match=r"its columns are fine film, 1; .*data.reader.header"):
        load_split(str(Path.cwd()), "train", text_column=["text"])


def test_another_option_reads_the_same_file_anew() -> None:
    content = "test,this;text\nis,one;row\n"
    assert list(read(content)) == ["test", "this;text"]
    assert list(read(content, separator=";")) == ["test,this", "text"]


def replace_as_rsync_does(file: Path, content: bytes) -> None:
    times = file.stat()
    copy = file.with_name(".copy")
    copy.write_bytes(content)
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.replace(file)


def overwrite(file: Path, content: bytes) -> None:
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("replace", [replace_as_rsync_does, overwrite])
@pytest.mark.parametrize("layout", ["csv", "jsonl.gz", "parquet", "hub"])
def test_file_replaced_with_its_time_stamp_kept_is_read_anew(layout: str, replace: Any, tmp_path: Path) -> None:
    contents = []
    for word in ("good", "evil"):  # of the same length
        dataset = datasets.Dataset.from_dict({"text": [word, "so so"] * 10, "label": [1, 0] * 10})
        file = tmp_path / "content"
        {"csv": dataset.to_csv, "jsonl.gz": dataset.to_json}.get(layout, dataset.to_parquet)(file)
        if layout == "jsonl.gz":
            file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
        contents.append(file.read_bytes())
        file.unlink()
    folder = tmp_path / "set"
    file = folder / ("data/train-00000-of-00001.parquet" if layout == "hub" else f"train.{layout}")
    file.parent.mkdir(parents=True)
    file.write_bytes(contents[0])
    before = TextDataModule(str(folder))
    before.prepare_data()
    replace(file, contents[1])
    after = TextDataModule(str(folder))
    after.prepare_data()
    assert before.tokenizer.token_to_id("good") is not None
    assert after.tokenizer.token_to_id("evil") is not None
    assert after.tokenizer.token_to_id("good") is None


def test_fingerprint_follows_the_content_and_not_the_place_or_the_age(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_bytes(PLAIN)
    os.utime(tmp_path / "two" / "train.csv", (1, 1))
    files = [tmp_path / name / "train.csv" for name in ("one", "two")]
    assert content_fingerprint(files[:1]) == content_fingerprint(files[1:])
    assert read_tables(files[:1])._fingerprint == read_tables(files[1:])._fingerprint
    files[1].write_bytes(PLAIN.replace(b"bad", b"mad"))
    assert content_fingerprint(files[:1]) != content_fingerprint(files[1:])
    assert read_tables(files[:1])._fingerprint != read_tables(files[:1], ReaderOptions(missing=("x",)))._fingerprint
