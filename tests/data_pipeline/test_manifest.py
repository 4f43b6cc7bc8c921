"""Tables keep what is written into them, and are read only whole."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.manifest import Row, count_rows, read_manifest, read_rows, write_rows, write_table

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10)
numbers = st.floats(0, 1e6)
rows = st.builds(
    Row,
    *(texts for _ in range(6)),
    start=numbers,
    gain=numbers,
    seconds=numbers,
    sha256=texts,
    size=st.integers(-1, 2**62),
    modified=st.integers(-1, 2**62),
    reason=texts,
)


@given(st.lists(rows, max_size=5))
@settings(max_examples=50)
def test_rows_come_back(tmp_path_factory, written):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_rows(path, written)
    assert list(read_rows(path)) == written


def test_other_programs_can_read_it(tmp_path):
    write_rows(tmp_path / "manifest.csv", [Row("ja/ä, b.wav", "ja", "train", text='"ja"', seconds=1.5)])
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["path"], row["word"], row["text"], row["seconds"]) == ("ja/ä, b.wav", "ja", '"ja"', "1.5")


def test_counts():
    made = [("a", "train", 1.0), ("a", "train", 0.5), ("b", "train", 1.0), ("a", "test", 2.0)]
    counts = count_rows(Row("x.wav", "yes", split, who, label="yes", seconds=seconds) for who, split, seconds in made)
    assert counts.keys() == {("train", "yes"), ("test", "yes")}
    train = counts["train", "yes"]
    assert (train.clips, train.seconds, train.speakers) == (3, 2.5, {"a", "b"})


def test_nothing_prepared(tmp_path):
    with pytest.raises(UserError, match=r"holds no prepared clips \(no manifest.csv\); run `speech-gru prepare` first"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\nyes/a.wav,yes\n",
        b"path,word,split,speaker,text,label,start,gain,seconds,sha256,size,modified,reason\na,b,c,d,e,f,x,1,1,,0,0,\n",
        b"path,word,split,speaker,text,label,start,gain,seconds,sha256,size,modified,reason\na,b,c\n",
        b"path,word,split\na,b,c,d\n",
        b"path,word,split\na,b,\xff\n",
        b"\x00\x01\x02\n\x03",
    ],
)
def test_a_table_of_another_program(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest.csv isn't as `speech-gru prepare` wrote it"):
        list(read_manifest(tmp_path))


def test_a_failure_leaves_the_old_table(tmp_path):
    def fail():
        yield ("a",)
        raise KeyboardInterrupt

    write_table(tmp_path / "t.csv", ("name",), [("old",)])
    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / "t.csv", ("name",), fail())
    assert (tmp_path / "t.csv").read_text() == "name\nold\n"
    assert len(list(tmp_path.iterdir())) == 1
