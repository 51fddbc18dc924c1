"""Records: one schema for writing and reading, and foreign files that are refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.made import cell, defended, end, failed, header, inapplicable, table, training

from leakgauge import metrics
from leakgauge.core import Status
from leakgauge.core.errors import DataError
from leakgauge.records import (
    PSNR_CAP,
    SCHEMA_VERSION,
    Control,
    Ended,
    Record,
    Verdict,
    json_schema,
    line_of,
    read,
    record_of,
)
from leakgauge.records import reading as reader
from leakgauge.records.values import printable

WHOLE = [
    header(),
    cell(),
    table(),
    defended("fp16", 9.0),
    inapplicable(),
    failed(),
    training(),
    end(),
]


def file_of(folder: Path, *lines: bytes) -> Path:
    path = folder / "records.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def refused(folder: Path, *lines: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(file_of(folder, *lines))
    message = str(caught.value)
    assert message.isprintable()
    return message


class TestSchema:
    def test_it_knows_the_statuses_and_the_ceiling_of_the_rooms_that_it_does_not_import(
        self,
    ) -> None:
        assert set(get_args(Ended)) == {status.value for status in Status}
        assert PSNR_CAP == metrics.PSNR_CEILING

    def test_every_field_is_described(self) -> None:
        parts: dict[str, Any] = json_schema()["$defs"]
        for name, part in parts.items():
            for field, schema in part["properties"].items():
                described = "description" in schema or "$ref" in schema
                assert described, f"{name}.{field}"
            assert part["additionalProperties"] is False
            assert set(part["required"]) == set(part["properties"]), "every line has every field"

    def test_a_field_has_one_type_in_all_records(self) -> None:
        """Readers of tables make one column of each field."""
        parts: dict[str, Any] = json_schema()["$defs"]
        seen: dict[str, dict[str, Any]] = {}
        for name in ("Header", "Cell", "Training", "End"):
            for field, schema in parts[name]["properties"].items():
                if field in ("type", "status"):  # Both are text in every record, with other values.
                    continue
                bare = {key: schema[key] for key in schema if key not in ("description", "default")}
                bare.pop("title", None)
                assert seen.setdefault(field, bare) == bare, field

    @pytest.mark.parametrize("record", WHOLE, ids=lambda record: record.type)
    def test_what_is_written_is_read(self, tmp_path: Path, record: Record) -> None:
        line = line_of(record)
        assert line.count(b"\n") == 1
        first = () if record.type == "header" else (line_of(header()),)
        assert read(file_of(tmp_path, *first, line))[-1] == record
        assert set(json.loads(line)) == set(type(record).model_fields)
        assert record_of(record.model_dump()) == record

    def test_records_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError):
            cell().status = "failed"  # type: ignore[misc]

    @given(st.floats(), st.text(max_size=20))
    def test_any_number_and_any_text_makes_one_line_of_json(self, number: float, text: str) -> None:
        record = cell(number, message=text)
        line = line_of(record)
        loaded = json.loads(line, parse_constant=lambda token: pytest.fail(token))
        finite = math.isfinite(number) and abs(number) <= 1e100
        assert loaded["scores"]["psnr"] == [number if finite else None]
        assert loaded["message"] == printable(text)
        assert line.count(b"\n") == 1

    def test_surrogates_of_file_names_are_replaced(self) -> None:
        assert cell(message="a\udc80b\x1b\u202e\n").message == "a\ufffdb\ufffd\ufffd\n"


class TestVerdict:
    def test_it_follows_from_its_examples(self) -> None:
        rest: dict[str, Any] = {"rule": "r", "floor": 1.0, "margin": None, "why": ""}
        assert Verdict(leaks=None, per_example=(None,), **rest).leaks is None
        for leaks, each in ((True, (False, None)), (False, (None,)), (None, (True,))):
            with pytest.raises(ValidationError, match="follows from `per_example`"):
                Verdict(leaks=leaks, per_example=each, **rest)

    def test_one_value_for_each_example(self) -> None:
        with pytest.raises(DataError, match="1 values, one for each example"):
            cell(scores={"psnr": (1.0, 2.0)}, verdict=cell().verdict)

    def test_a_failure_says_what_failed(self) -> None:
        for record in (failed(), training(status="failed", failure=failed().failure)):
            with pytest.raises(DataError, match="a failure, since its status is 'failed'"):
                record_of(record.model_dump() | {"failure": None})

    def test_psnr_at_its_cap_is_infinite_for_a_reader(self) -> None:
        record = cell(PSNR_CAP, PSNR_CAP)
        assert record.scores["psnr"] == (PSNR_CAP,)
        assert record.values("psnr") == record.blind_values("psnr") == (math.inf,)
        assert record.values("label") == (1.0,)
        assert record.values("gone") == inapplicable().blind_values("psnr") == ()


class TestReading:
    def test_a_file_of_another_version_is_refused_with_its_remedy(self, tmp_path: Path) -> None:
        old = b'{"type": "run", "schema": 1, "specification": null}\n'
        for line, found in (
            (old, "found 1"),
            (line_of(header()).replace(b'"schema_version":3', b'"schema_version":2'), "found 2"),
            (line_of(header()).replace(b'"schema_version":3', b'"schema_version":4'), "found 4"),
            (
                line_of(header()).replace(b'"schema_version":3', b'"schema_version":"2"'),
                "found '2'",
            ),
        ):
            message = refused(tmp_path, line, line_of(cell()))
            assert f"line 1: expected schema version {SCHEMA_VERSION}; {found}" in message
            assert (
                "use the version of LeakGauge that made the records, or repeat the run" in message
            )

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"status": "fine"}, "status"),
            ({"batch_size": 0}, "batch_size"),
            ({"batch_size": True}, "batch_size"),
            ({"batch_size": "1"}, "batch_size"),
            ({"attack": {"name": "dlg"}}, "attack.repr"),
            ({"surplus": 1}, "surplus"),
            ({"type": "call"}, "found type 'call'"),
            ({"scores": {"psnr": ["40"]}}, "scores.psnr.0"),
            ({"control": []}, "control"),
            ({"verdict": None}, "verdict"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(
        self, tmp_path: Path, change: dict[str, Any], words: str
    ) -> None:
        record = cell().model_dump(mode="json") | change
        message = refused(tmp_path, line_of(header()), b"\n", json.dumps(record).encode() + b"\n")
        assert message.startswith("records.jsonl, line 3: expected ")
        assert words in message

    def test_a_line_without_its_end_is_read_where_it_is_whole(self, tmp_path: Path) -> None:
        whole = line_of(header())
        assert len(read(file_of(tmp_path, whole, line_of(cell())[:-1]))) == 2
        assert len(read(file_of(tmp_path, whole, line_of(cell())[:-2]))) == 1
        assert "line 2" in refused(tmp_path, whole, b'{"type": "cell"}')

    def test_a_run_that_was_killed_has_no_end(self, tmp_path: Path) -> None:
        assert len(read(file_of(tmp_path, line_of(header())))) == 1
        assert len(read(file_of(tmp_path, line_of(header()), line_of(cell())))) == 2

    @pytest.mark.parametrize(
        ("records", "expected", "remedy"),
        [
            ([], "records.jsonl: expected the header of a run", "run the audit again"),
            ([cell(), end()], "line 1: expected the header of a run", "put the header back"),
            ([end()], "found a line of type 'end'", "put the header back"),
            ([cell(), header()], "line 1: expected the header of a run", "put the header back"),
            ([header(), header()], "line 2: expected one run in a file", "in its own folder"),
            ([header(), cell(), end(), header()], "line 4: expected one run", "in its own folder"),
            ([header(), end(), cell()], "line 3: expected nothing after the end", "leave out"),
            ([header(), end(), end()], "found a line of type 'end'", "leave out"),
        ],
    )
    def test_what_is_not_one_run(
        self, tmp_path: Path, records: list[Record], expected: str, remedy: str
    ) -> None:
        message = refused(tmp_path, *map(line_of, records))
        assert expected in message
        assert remedy in message

    @pytest.mark.parametrize("content", [b"", b"\n\n", line_of(header())[:-9]])
    def test_a_file_without_a_whole_line(self, tmp_path: Path, content: bytes) -> None:
        assert "found no records" in refused(tmp_path, content)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        assert "line 1" in refused(tmp_path, b"\xff\xfe\x00\n")
        assert "line 2" in refused(tmp_path, line_of(header()), b'{"type": "cell", "id": "\xff"}\n')

    def test_a_number_of_any_length(self, tmp_path: Path) -> None:
        line = line_of(header()).replace(b'"seed":0', b'"seed":' + b"9" * 5000)
        assert "line 1" in refused(tmp_path, line)

    def test_a_file_and_a_line_that_are_too_long(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader, "LONGEST_LINE", 1000)
        message = refused(tmp_path, b'{"type": "' + b"x" * 5000 + b'"}\n')
        assert "line 1: expected a line of at most 1,000 bytes" in message
        monkeypatch.setattr(reader, "MOST_BYTES", 100)
        message = refused(tmp_path, line_of(header()))
        assert "of at most 100 bytes" in message

    def test_a_folder_and_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "gone.jsonl", tmp_path / "a\0b"):
            with pytest.raises(DataError, match="run `leakgauge audit` first"):
                read(path)

    def test_a_control_of_an_unknown_status(self) -> None:
        with pytest.raises(ValidationError):
            Control(kind="k", scores={}, status="odd", message="")  # type: ignore[arg-type]
