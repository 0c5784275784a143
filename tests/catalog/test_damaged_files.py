"""Files that are damaged, cut short, or change their types on the way: four parts, no traceback."""

import gzip
import json

import pytest

from tests.catalog.files import put, run


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"item_id": "a"}]', "is not a JSON object"),
        ('{"item_id": "a", "title": "x"}\n{"item_id": ', "is not a JSON object"),
        ('{"item_id": "a", "title": "x"}\n' * 300 + '{"item_id": ["a"], "title": "x"}\n', "cannot be read"),
        ('{"item_id": 1, "title": "x"}\n{"item_id": "b", "title": "x"}\n', "column item_id of items.jsonl"),
        ('{"item_id": ' + "9" * 30 + ', "title": "x"}\n', "column item_id of items.jsonl"),
        ('{"item_id": 1, "title": "x"}\n' * 300 + '{"item_id": ' + "9" * 30 + ', "title": "x"}\n', "cannot be read"),
        ('{"item_id": "\\ud800", "title": "x"}\n', "cannot be read"),
    ],
)
def test_broken_json_lines(text, what, tmp_path):
    (tmp_path / "items.jsonl").write_text(text)
    status, _, error = run("validate", tmp_path)
    assert status == 2
    assert what in error


def test_mixed_types_in_a_column_that_is_not_used_do_no_harm(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,x\n")
    (tmp_path / "events.jsonl").write_text(
        "".join(
            f'{{"user_id": "u", "item_id": "a", "timestamp": {time}, "tag": {tag}}}\n'
            for time, tag in ((1, 1), (2, '"x"'))
        )
    )
    status, output, error = run("validate", tmp_path)
    assert status == 0, error
    assert "tag of events.jsonl" in output


@pytest.mark.parametrize("name", ["items.csv.gz", "items.jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut short", "no gzip"])
def test_damaged_gzip(name, damage, tmp_path):
    rows = [(f"{row * 7919 % 10007}", f"thing {row}") for row in range(4000)]
    if "csv" in name:
        text = "item_id,title\n" + "".join(f"{item},{title}\n" for item, title in rows)
    else:
        text = "".join(json.dumps({"item_id": item, "title": title}) + "\n" for item, title in rows)
    packed = gzip.compress(text.encode())
    (tmp_path / name).write_bytes(packed[: len(packed) // 2] if damage == "cut short" else text.encode())
    status, _, error = run("validate", tmp_path)
    assert status == 2
    assert f"{name} cannot be read" in error


def test_damaged_parquet_page(tmp_path):
    file = put(tmp_path / "items.parquet", item_id=[f"{row}" for row in range(4000)], title=["x"] * 4000)
    data = bytearray(file.read_bytes())
    data[40:240] = b"\xff" * 200
    file.write_bytes(data)
    status, _, error = run("validate", tmp_path)
    assert status == 2
    assert "items.parquet cannot be read" in error


def test_ragged_csv(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,b\nc\n")
    status, _, error = run("validate", tmp_path)
    assert status == 2
    assert "cannot be read" in error
