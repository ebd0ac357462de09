import json
import tracemalloc

import pytest

from lxmert_dist import json_list
from lxmert_dist.errors import DataError
from lxmert_dist.json_list import read_members, read_objects

OBJECTS = [
    {"img_id": "1", "sentf": {"vqa": ['a "b" \\ ]},{', "é€𝄞"]}, "n": [1, -2.5e3, True, None]},
    {},
    {"deep": {"x": [{"y": []}, 12345]}},
]


@pytest.mark.parametrize("block", [1, 3, 17, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"ensure_ascii": False, "indent": 2}])
def test_it_reads_what_json_reads(tmp_path, monkeypatch, block, style):
    monkeypatch.setattr(json_list, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text("\n " + json.dumps(OBJECTS, **style) + " \n", "utf-8")
    seen = []
    found = list(read_objects(path, seen.append))
    assert [element for _, element in found] == OBJECTS
    assert sum(seen) == path.stat().st_size
    lines = path.read_text("utf-8").splitlines()
    for where, _ in found:
        assert "{" in lines[int(where.rsplit(":", 1)[1]) - 1]


def test_an_empty_list_has_no_elements(tmp_path):
    (tmp_path / "a.json").write_text(" [ ] ")
    assert list(read_objects(tmp_path / "a.json")) == []


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', ":1: expected a list"),
        ("", ":1: the file ends in the middle"),
        ('[{"a": 1},\n{"b": [1, 2', ":2: the file ends in the middle"),
        ('[{"a": 1},\n{"b": "open', ":2: the file ends in the middle"),
        ('[{"a": 1}\n', ":2: the file ends in the middle"),
        ('[{"a": 1},\n\n{"b": 1, oops: 2}, {"c": "and much more text"}]', ":3: not JSON"),
        ('[{"a": 1}\n{"b": 1}]', ":2: expected ',' or ']'"),
        ('[{"a": 1},\n3]', ":2: expected an object"),
        ('[{"a": 1}]\n[]', ":2: something follows the list"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, monkeypatch, text, message, block):
    monkeypatch.setattr(json_list, "BLOCK", block)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=f"a.json{message}"):
        list(read_objects(tmp_path / "a.json"))


MEMBERS = {
    "info": {"year": 2014, "list": [1, {"images": []}]},
    "year": 20145,
    "share": -12.5e-3,
    "none": None,
    "empty": [],
    "licenses": [{"id": 1}, [2, [3]], "four", 5.25, False],
    "type": 'a "b" \\ ]},{:',
    "questions": [{"question_id": i} for i in range(30)],
    "last": 123456,
}


@pytest.mark.parametrize("block", [1, 3, 17, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_members_are_what_json_reads_with_lists_taken_apart(tmp_path, monkeypatch, block, style):
    monkeypatch.setattr(json_list, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(MEMBERS, **style) + "\n")
    expected = [
        (key, element)
        for key, value in MEMBERS.items()
        for element in (value if isinstance(value, list) else [value])
    ]
    seen = []
    found = list(read_members(path, seen.append))
    assert [(key, value) for key, _, value in found] == expected
    assert sum(seen) == path.stat().st_size
    lines = path.read_text().splitlines()
    for _, where, value in found:
        assert json.dumps(value)[0] in lines[int(where.rsplit(":", 1)[1]) - 1]


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", ":1: expected an object, as in"),
        ('{"a": [1,\n2', ":2: the file ends in the middle"),
        ('{"a": [1,\n2}', r":2: expected ',' or '\]' behind a value"),
        ('{"a": 1,\n"b" 2}', ":2: expected ':' behind the key 'b'"),
        ('{"a": 1,\nb: 2}', ":2: expected a key"),
        ('{"a": 1\n"b": 2}', ":2: expected ',' or '}' behind a value"),
        ('{"a": 1} \n2', ":2: something follows the object"),
    ],
)
def test_what_is_wrong_with_members_is_named(tmp_path, monkeypatch, text, message, block):
    monkeypatch.setattr(json_list, "BLOCK", block)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=f"a.json{message}"):
        list(read_members(tmp_path / "a.json"))


def test_a_key_that_comes_twice_is_told_twice(tmp_path):
    (tmp_path / "a.json").write_text('{"7": {}, "7": {}}')
    assert [key for key, _, _ in read_members(tmp_path / "a.json")] == ["7", "7"]


def test_other_encodings_and_absent_files_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "caf\xe9"}]')
    with pytest.raises(DataError, match=r"a\.json:1: not UTF-8"):
        list(read_objects(tmp_path / "a.json"))
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        list(read_objects(tmp_path / "none.json"))


def test_an_element_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "BLOCK", 64)
    monkeypatch.setattr(json_list, "MAX_ELEMENT", 1000)
    (tmp_path / "a.json").write_text('[{"a": "' + "x" * 10_000)
    read = []
    with pytest.raises(DataError, match=r"a\.json:1: not JSON .Unterminated string"):
        list(read_objects(tmp_path / "a.json", read.append))
    assert sum(read) < 3000


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "BLOCK", 1 << 14)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"sentence": f"{i} " * 100} for i in range(5000)]))
    assert path.stat().st_size > 2_000_000
    tracemalloc.start()
    for _ in read_objects(path):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000  # measured 110,000
