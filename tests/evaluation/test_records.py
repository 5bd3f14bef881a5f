"""Records survive the way to the disk and back, interruptions included; anything else that is wrong is an error."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cus.errors import InputError
from cus.evaluation.records import Record, append_record, latest_records, read_records, record_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(width=64)


def record(case: str = "a", **changes: object) -> Record:
    base = Record("scene", case, "row", "Row", {"level": "easy"}, {"frame": {"psnr": 20.5}}, "pictures/p.png", 1.25)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_records_come_back_in_order_and_equal(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [record("a"), record("b", error="diverged:\nNaN", scores={}, picture=None), record("c, ü \u2028")]
    for one in written:
        append_record(path, one)
    assert read_records(path) == written
    assert len(path.read_bytes().splitlines()) == len(written), "one line a record"


@settings(max_examples=30, deadline=None)
@given(NUMBER, TEXT, st.dictionaries(TEXT, TEXT, max_size=3), st.dictionaries(TEXT, NUMBER, max_size=3))
def test_any_text_and_number_survives_in_strict_json(seconds, text, group, scores):
    before = record(text, group=group, scores={"frame": scores}, seconds=seconds, row_label=text)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        append_record(path, before)
        append_record(path, before)
        assert [repr(one) for one in read_records(path)] == [repr(before)] * 2
        json.loads(path.read_bytes().split(b"\n")[0], parse_constant=refuse)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e-300, 0.1 + 0.2])
def test_scores_survive_to_the_last_bit(tmp_path, value):
    append_record(tmp_path / "r", record(scores={"frame": {"psnr": value}, "covisible": {"psnr": math.nan}}))
    (back,) = read_records(tmp_path / "r")
    assert back.scores["frame"]["psnr"] == value
    assert math.isnan(back.scores["covisible"]["psnr"])


def test_wherever_a_write_is_cut_off_all_earlier_records_stay_and_the_next_one_stands_by_itself(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record("first"))
    whole_first = path.read_bytes()
    append_record(path, record("zwölf"))
    line = path.read_bytes()[len(whole_first) :]
    for length in range(len(line) + 1):
        path.write_bytes(whole_first + line[:length])
        complete = length >= len(line) - 1
        cases = ["first", "zwölf"] if complete else ["first"]
        assert [r.case for r in read_records(path)] == cases
        append_record(path, record("third"))
        assert [r.case for r in read_records(path)] == [*cases, "third"]


def spoiled(**changes: object) -> str:
    return json.dumps(record_json(record()) | changes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "invalid json"),
        ("", "invalid json"),
        ("3", "must be an object, got 3"),
        (json.dumps({k: v for k, v in record_json(record()).items() if k != "row"}), "row is missing"),
        (spoiled(colour="red"), "colour"),
        (spoiled(scene=3), "scene must be a valid string, got 3"),
        (spoiled(picture=3), "picture must be a valid string, got 3"),
        (spoiled(group={"level": 3}), "group.level must be a valid string, got 3"),
        (spoiled(scores={"frame": 3}), "scores.frame must be an object, got 3"),
        (spoiled(scores={"frame": {"psnr": None}}), "scores.frame.psnr must be a valid number"),
        (spoiled(scores={"frame": {"psnr": "high"}}), "'high'"),
        (spoiled(seconds=True), "seconds must be a valid number, got True"),
    ],
)
def test_a_line_that_is_no_record_is_an_error_that_names_it(tmp_path, line, words):
    path: Path = tmp_path / "records.jsonl"
    append_record(path, record("first"))
    with open(path, "a") as stream:
        stream.write(line + "\n")
    append_record(path, record("last"))
    with pytest.raises(InputError, match="line 2 of .*records.jsonl") as caught:
        read_records(path)
    assert words in str(caught.value) and "delete it" in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "r").touch()
    assert read_records(tmp_path / "r") == []


def test_a_case_that_was_run_again_replaces_its_earlier_record():
    failed, again, other = record(error="no memory", scores={}), record(), record(group={"level": "hard"})
    assert latest_records([failed, other, again]) == [again, other]
