"""Generated tables: each row is as it was written, or one line says what is wrong."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings, strategies as st

from lightning_transfer.data.reading.delimited import read_delimited
from lightning_transfer.data.reading.objects import read_objects
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.errors import UserError

FEW = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What tables are written with, and what they may hold: mostly signs that mean something to a reader.
TEXTS = st.text(st.sampled_from("a, \";\t|\n\r'0\\é日\0\u2028\ufeff") | st.characters(codec="utf-8"), max_size=12)
LABELS = st.sampled_from(["0", "1", "neg", "pos", "007", "NA", "None", "-1.5", "", " x", "1e3"])
ROWS = st.lists(st.tuples(TEXTS, LABELS), min_size=1, max_size=8)
WRITERS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
    }
)


def write(file: Path, rows: list[tuple[str, str]], how: dict[str, Any], encoding: str = "utf-8") -> bytes:
    if any("\r" in text for text, _ in rows):  # csv.writer would not quote it
        how = {**how, "quoting": csv.QUOTE_ALL}
    stream = io.StringIO(newline="")
    csv.writer(stream, **how).writerows([("text", "label"), *rows])
    content = stream.getvalue().encode(encoding)
    file.write_bytes(gzip.compress(content, 1) if file.suffix == ".gz" else content)
    return content


def read(file: str, **options: Any) -> list[tuple[str, str]] | str:
    """Reads the rows as texts, or the line that says what is wrong."""
    try:
        found = read_delimited(Path(file), ReaderOptions(**options)).to_pydict()  # without the cache, which takes long
    except UserError as error:
        return str(error)
    return [tuple(cell or "" for cell in row) for row in zip(*found.values(), strict=True)]


@FEW
@given(
    rows=ROWS,
    how=WRITERS,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    file=st.sampled_from(["a.csv", "a.tsv", "a.txt.gz"]),
)
@example(rows=[("one, two\nthree", "1"), ("so", "0")], how={"delimiter": ","}, encoding="utf-8", file="a.csv")
@example(rows=[("yes,1\nno", "0"), ("so", "1")], how={"delimiter": ","}, encoding="utf-8", file="a.csv")
def test_table_that_is_written_by_the_rules_is_read_row_by_row_or_refused(
    rows: list[tuple[str, str]], how: dict[str, Any], encoding: str, file: str
) -> None:
    write(Path(file), rows, how, encoding)
    found = read(file)
    if isinstance(found, str):
        assert "holds lines that look like rows; set" in found
        assert any("\n" in text or "\r" in text for text, _ in rows)
        found = read(file, quoting="double")
    assert found == rows


@FEW
@given(
    rows=ROWS,
    how=WRITERS,
    place=st.integers(0, 60),
    sign=st.sampled_from(['"', ",", "\n", "\0", "\\"]),
    cut=st.booleans(),
)
def test_damaged_table_keeps_its_rows_or_is_refused_in_one_line(
    rows: list[tuple[str, str]], how: dict[str, Any], place: int, sign: str, cut: bool
) -> None:
    content = write(Path("a.csv"), rows, how).decode()
    damaged = content[:place] if cut else content[:place] + sign + content[place:]
    Path("a.csv").write_bytes(damaged.encode())
    found = read("a.csv")
    if isinstance(found, str):
        assert "\n" not in found
        return
    counts = set()
    for separator in ",;\t|\x1f":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            reference = csv.reader(io.StringIO(damaged, newline=""), delimiter=separator, quoting=quoting)
            counts.add(max(0, sum(1 for row in reference if row) - 1))
    assert len(found) in counts


@FEW
@given(
    rows=st.lists(st.tuples(TEXTS, st.sampled_from([0, 1, "1", "x", None, 2.5])), min_size=1, max_size=8),
    as_lines=st.booleans(),
)
def test_json_is_read_row_by_row(rows: list[tuple[str, Any]], as_lines: bool) -> None:
    objects = [{"text": text, "label": label} for text, label in rows]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in objects)
    Path("a.json").write_text(lines if as_lines else json.dumps(objects), encoding="utf-8")
    found = read_objects(Path("a.json")).to_pydict()
    assert found["text"] == [text for text, _ in rows]
    labels = [label for _, label in rows]
    if any(isinstance(label, str) for label in labels):
        labels = [label if label is None else str(label) for label in labels]
    assert found["label"] == labels
