"""docs/results.csv, its tables and its configs agree."""

import importlib.util
from pathlib import Path

import pytest

from speech_gru.config import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    specification = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_documents_hold_what_the_file_says(results):
    rows = results.read_results()
    assert rows
    for document in results.documents():
        text = document.read_text(encoding="utf-8")
        assert results.with_tables(text, rows) == text, f"{document.name}: run `python benchmarks/results.py tables`"


def test_a_table_that_is_out_of_date_is_noticed(results):
    rows = results.read_results()
    old = f"text\n\n<!-- results: {rows[0].config} -->\n| old |\n{results.END}\nmore\n"
    new = results.with_tables(old, rows)
    assert "| old |" not in new
    assert new.startswith("text\n\n<!-- results: ")
    assert new.endswith(f"\n{results.END}\nmore\n")
    assert f"{100 * rows[0].accuracy:.2f} %" in new
    assert results.with_tables(new, rows) == new


def test_each_row_has_its_config(results):
    for row in results.read_results():
        assert load_config(row.config).name == row.config
        assert row.low <= row.accuracy <= row.high
        assert row.config in row.command


def test_rows_have_names_of_their_own(results):
    names = [row.name for row in results.read_results()]
    assert len(set(names)) == len(names)


def test_written_and_read(results, tmp_path):
    rows = results.read_results()
    results.write_results(rows, tmp_path / "results.csv")
    assert results.read_results(tmp_path / "results.csv") == rows


def test_reproduce_asks_for_a_row_that_is_there(results, capsys):
    assert results.reproduce("nothing/0/model") == 2
    assert "expected one of" in capsys.readouterr().err
