import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from making import user_error

from rvae_jax.data.prepare.sources import tables

ROOT = Path(__file__).parents[4]
FILES = {"a.png": 1, "b/c.png": 1, "b/d.png": 1, "e/d.png": 1}


def _csv(tmp_path, *lines, encoding="utf-8", end="\n"):
    path = tmp_path / "labels.csv"
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("texts", "dtype", "values"),
    [
        (["0", "1"], np.bool_, [False, True]),
        (["1", "1"], np.bool_, [True, True]),
        (["-1", "1"], np.bool_, [False, True]),
        ([" -1", "1 "], np.bool_, [False, True]),
        (["true", "FALSE"], np.bool_, [True, False]),
        (["0", "2"], np.int64, [0, 2]),
        (["0", "-1"], np.int64, [0, -1]),
        (["9007199254740993", "5"], np.int64, [9007199254740993, 5]),
        (["0", "1.0"], np.float32, [0, 1]),
        (["1e-3", "-7"], np.float32, [0.001, -7]),
        (["9223372036854775807", "-9223372036854775808"], np.int64, [2**63 - 1, -(2**63)]),
        (["9223372036854775808", "5"], object, ["9223372036854775808", "5"]),
        (["99999999999999999999", "1"], object, ["99999999999999999999", "1"]),
        (["9" * 5000, "1"], object, ["9" * 5000, "1"]),
        (["00004", "12345"], object, ["00004", "12345"]),
        (["-0", "5"], object, ["-0", "5"]),
        (["0001_0002", "0003_0001"], object, ["0001_0002", "0003_0001"]),
        (["٣", "5"], object, ["٣", "5"]),
        ([" 7", "5 "], np.int64, [7, 5]),
        (["00004", "0.5"], np.float32, [4, 0.5]),
        (["cat", "dog"], object, ["cat", "dog"]),
        (["", "1"], object, ["", "1"]),
        (["true", "1"], object, ["true", "1"]),
        (["ü", "1,5"], object, ["ü", "1,5"]),
    ],
)
def test_a_column_has_the_type_that_its_values_allow(texts, dtype, values, tmp_path):
    path = _csv(tmp_path, "name,x", f'a.png,"{texts[0]}"', f'b/c.png,"{texts[1]}"')
    table = tables.read_table(path, FILES)
    assert list(table.columns) == ["x"]
    assert table.columns["x"].dtype == dtype
    for name, value in zip(["a.png", "b/c.png"], values, strict=True):
        found = table.row(name)["x"]
        assert found == (np.float32(value).item() if dtype == np.float32 else value)
        assert type(found) is {np.bool_: bool, np.int64: int, np.float32: float, object: str}[dtype]


def test_rows_are_found_by_the_pictures_name(tmp_path):
    path = _csv(tmp_path, "name,x,y", "e/d.png,5,u", "nowhere.png,9,w", "", "./a.png,7,v", " b/c.png,8,t")
    table = tables.read_table(path, FILES)
    assert table.row("e/d.png") == {"x": 5, "y": "u"}
    assert table.row("a.png") == {"x": 7, "y": "v"}
    assert table.row("b/c.png") == {"x": 8, "y": "t"}
    assert "a.png" in table
    assert "b/d.png" not in table
    assert "nowhere.png" not in table


def test_rows_of_other_pictures_do_not_decide_the_type(tmp_path):
    table = tables.read_table(_csv(tmp_path, "name,x", "a.png,1", "nowhere.png,many"), FILES)
    assert table.columns["x"].dtype == np.bool_


def test_a_name_without_a_folder_counts_where_it_is_unique(tmp_path):
    table = tables.read_table(_csv(tmp_path, "name,x", "c.png,5", "d.png,6", "a.png,7"), FILES)
    assert table.row("b/c.png") == {"x": 5}
    assert "b/d.png" not in table  # there are two
    assert "e/d.png" not in table
    files = {"x.png": 1, "a/x.png": 1}
    table = tables.read_table(_csv(tmp_path, "name,x", "x.png,5"), files)
    assert table.row("x.png") == {"x": 5}
    assert "a/x.png" not in table


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_skipped(encoding, end, tmp_path):
    path = _csv(tmp_path, "name,größe", "a.png,ü", encoding=encoding, end=end)
    assert tables.read_table(path, FILES).row("a.png") == {"größe": "ü"}
    path = _csv(tmp_path, '"name, of the file",x', "a.png,3", encoding=encoding, end=end)
    assert tables.read_table(path, FILES).row("a.png") == {"x": 3}


def test_a_name_in_a_csv_may_be_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    path = _csv(tmp_path, "name,x", "café.png,5", encoding="latin-1")
    assert tables.read_table(path, {name: 1}).row(name) == {"x": 5}


def test_rows_that_name_no_picture_are_told(tmp_path, capsys):
    tables.read_table(_csv(tmp_path, "name,x", "a.png,1", "b/c.png,1"), FILES)
    assert capsys.readouterr().out == ""
    path = _csv(tmp_path, "name,left,top,width,height", "a.png,1,2,3,4", "p.png,1,2,3,4", "d.png,1,2,3,4")
    tables.read_boxes(path, FILES)
    assert capsys.readouterr().out == f"{path}: 2 of 3 rows name no picture\n"
    tables.read_boxes(path, FILES)
    assert capsys.readouterr().out == ""
    script = "import sys, multiprocessing; from pathlib import Path\n"
    script += "from rvae_jax.data.prepare.sources.tables import read_boxes\n"
    script += "if __name__ == '__main__':\n"
    script += "    arguments = Path(sys.argv[1]), {'a.png': 1}\n"
    script += "    multiprocessing.get_context('spawn').Pool(1).apply(read_boxes, arguments)\n"
    script += "    print('done')\n"
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, tmp_path / "script.py", path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == b"done\n"


def test_two_rows_of_one_picture_must_be_equal(tmp_path):
    table = tables.read_table(_csv(tmp_path, "name,x", "b/c.png,5", "a.png,7", "c.png,5"), FILES)
    assert table.row("b/c.png") == {"x": 5}
    assert table.row("a.png") == {"x": 7}
    assert table.columns["x"].shape == (2,)
    message = _csv_error(tmp_path, "name,x", "b/c.png,5", "a.png,7", "", "c.png,6")
    assert "lines 2 and 5 are both of b/c.png and differ; expected one row of each" in message


def test_columns_of_the_same_name_are_refused(tmp_path):
    assert "two columns have the name x; expected" in _csv_error(tmp_path, "name,x,y,x", "a.png,1,2,3")


def test_a_csv_without_a_header_is_refused(tmp_path):
    for name in ("a.png", "./b/c.png", "c.png"):
        message = _csv_error(tmp_path, f"{name},1,1", "b/d.png,1,0")
        assert f"its first line names the picture {name}; expected a header above it" in message


def _csv_error(tmp_path, *lines):
    message = user_error(tables.read_table, _csv(tmp_path, *lines), FILES)
    assert message.startswith(f"{tmp_path / 'labels.csv'}: ")
    return message


@pytest.mark.parametrize("header", ['name,"x\ny","x\ny"', '"a.png\n",1,2'])
def test_a_message_is_one_line_whatever_the_header_has(header, tmp_path):
    path = _csv(tmp_path, header, "b/c.png,3,4")
    assert "\n" not in user_error(tables.read_table, path, FILES)


def test_ragged_rows_are_refused(tmp_path):
    assert "line 3 has 1 columns, expected 2" in _csv_error(tmp_path, "name,x", "a.png,1", "b/c.png")
    assert "line 2 has 3 columns, expected 2" in _csv_error(tmp_path, "name,x", "a.png,1,2", "b/c.png,1")


def test_a_missing_csv_is_refused(tmp_path):
    message = user_error(tables.read_table, tmp_path / "nowhere.csv", FILES)
    assert "nowhere.csv: No such file or directory" in message
    assert f"{tmp_path}: Is a directory" in user_error(tables.read_table, tmp_path, FILES)


def test_a_csv_without_rows_or_columns_is_refused(tmp_path):
    for lines in ([], ["name,x"], ["name", "a.png"], ["", ""]):
        assert "expected a CSV file with a header" in _csv_error(tmp_path, *lines)


def test_a_csv_of_other_pictures_is_refused(tmp_path):
    message = _csv_error(tmp_path, "name,x", "p.png,1", "q.png,1")
    assert "none of its 2 rows names a picture; expected names such as a.png" in message


def test_a_quote_that_never_ends_is_refused(tmp_path):
    assert "expected a CSV file" in _csv_error(tmp_path, "name,x", 'a.png,"' + "1" * 200_000)


def test_boxes_are_read(tmp_path):
    path = _csv(tmp_path, "name,left,top,width,height", "a.png,-1,2.5,1,4", "b/c.png,-1,7,1,5")
    table = tables.read_boxes(path, FILES)
    assert table.row("a.png") == {"left": -1, "top": 2.5, "width": 1, "height": 4}
    assert table.row("b/c.png") == {"left": -1, "top": 7, "width": 1, "height": 5}


def test_the_largest_box_of_a_picture_counts(tmp_path):
    boxes = ["c.png,8,8,9,9", "a.png,1,1,2,50", "a.png,2,2,8,20", "a.png,3,3,30,3", "a.png,4,4,-90,-90"]
    boxes += ["a.png,5,5,nan,7", "a.png,inf,6,99,99", "a.png,7,7,inf,7"]
    for lines in (boxes, boxes[::-1]):
        table = tables.read_boxes(_csv(tmp_path, "name,left,top,width,height", *lines), FILES)
        assert table.row("a.png") == {"left": 2, "top": 2, "width": 8, "height": 20}
        assert table.row("b/c.png") == {"left": 8, "top": 8, "width": 9, "height": 9}


@pytest.mark.parametrize(
    "lines",
    [
        ["name,left,top,width", "a.png,1,2,3"],
        ["name,top,left,width,height", "a.png,1,2,3,4"],
        ["name,left,top,right,bottom", "a.png,1,2,3,4"],
        ["name,left,top,width,height,score", "a.png,1,2,3,4,5"],
        ["name,left,top,width,height", "a.png,1,2,3,4px"],
        ["name,left,top,width,height", "a.png,1,2,,4"],
        ["name,left,top,width,height", 'a.png,1,2,"3\n4",4'],
        ['name,left,top,width,"he\night"', "a.png,1,2,3,4"],
    ],
)
def test_other_columns_than_those_of_a_box_are_refused(lines, tmp_path):
    message = user_error(tables.read_boxes, _csv(tmp_path, *lines), FILES)
    assert "expected name, left, top, width, height, in pixels" in message and "\n" not in message


def test_names_in_another_form_of_unicode_are_found(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é/ü.png") for form in ("NFC", "NFD"))
    table = tables.read_table(_csv(tmp_path, "name,x", f"{composed},7"), {decomposed: 1})
    assert table.row(decomposed) == {"x": 7}


def test_the_line_of_a_ragged_row_counts_empty_lines(tmp_path):
    assert "line 4 has 3 columns, expected 2" in _csv_error(tmp_path, "name,x", "", "a.png,1", "b/c.png,1,2")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", ""), ("cp1252", "labels.csv: is not UTF-8; read as Windows-1252")],
)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(encoding, said, mark, tmp_path, capsys):
    tables._say_once.cache_clear()
    path = _csv(tmp_path, f"name{mark}Größe", f"a.png{mark}groß", encoding=encoding, end="\r\n")
    table = tables.read_table(path, FILES)
    assert table.row("a.png") == {"Größe": "groß"}
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_the_separator_that_excel_names_is_taken(first, tmp_path):
    path = _csv(tmp_path, first, "name;x,y", "a.png;1,5", end="\r\n")
    assert tables.read_table(path, FILES).row("a.png") == {"x,y": "1,5"}
    message = user_error(tables.read_table, _csv(tmp_path, first, "name;x", "a.png"), FILES)
    assert "line 3 has 1 columns, expected 2" in message


def test_empty_columns_without_a_name_are_left_out(tmp_path):
    table = tables.read_table(_csv(tmp_path, ",x,,", "a.png,1,,", "b/c.png,0, ,"), FILES)
    assert list(table.columns) == ["x"] and table.row("a.png") == {"x": True}
    message = user_error(tables.read_table, _csv(tmp_path, "name,x,", "a.png,1,", "b/c.png,0,5"), FILES)
    assert "column 3 has a value in line 3, but no name in the header" in message


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("name,x\na.png,1\n".encode("utf-16-le"))
    assert "has bytes of zero; expected text in UTF-8" in user_error(tables.read_table, path, FILES)
    path.write_bytes(b"name,x\na.png,\x81\n")
    assert "cannot be read as text; expected UTF-8, UTF-16" in user_error(tables.read_table, path, FILES)
