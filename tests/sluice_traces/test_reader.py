"""Every way in which a trace file can be unusable, named, and without a word of its text."""

import json

import msgspec
import pytest

from sluice_traces.reader import (
    BadFileError,
    BadReason,
    check_size,
    decode,
    is_temporary_name,
    is_trace_name,
    screens_folder,
)
from sluice_traces.records import TraceRecord, instant_us
from trace_factory import trace

DECODER = msgspec.json.Decoder(TraceRecord)
GOOD = json.dumps(trace()).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", BadReason.TRUNCATED_JSON, id="empty file"),
        pytest.param(GOOD[:-20], BadReason.TRUNCATED_JSON, id="cut at the end"),
        pytest.param(GOOD[:60], BadReason.TRUNCATED_JSON, id="cut early"),
        pytest.param(b"\x89PNG\r\n", BadReason.BAD_UTF8, id="a picture"),
        pytest.param(GOOD.replace(b"acme", b"a\xffme"), BadReason.BAD_UTF8, id="a broken character in a used field"),
        pytest.param(GOOD.replace(b"third", b"th\xffrd"), BadReason.BAD_UTF8, id="a broken character in a skipped one"),
        pytest.param(b"secret words", BadReason.INVALID_JSON, id="no JSON"),
        pytest.param(GOOD + b"secret", BadReason.INVALID_JSON, id="trailing text"),
        pytest.param(GOOD.replace(b"60.0", b"NaN"), BadReason.INVALID_JSON, id="NaN is no JSON"),
        pytest.param(b'{"x":' + b"[" * 100_000, BadReason.INVALID_JSON, id="nested too deeply"),
        pytest.param(b"[]", BadReason.NOT_A_TRACE, id="a list"),
        pytest.param(b'{"tasks": []}', BadReason.NOT_A_TRACE, id="another document"),
        pytest.param(json.dumps({"schema_version": 3, "run_id": "r"}).encode(), BadReason.NOT_A_TRACE, id="no steps"),
        pytest.param(
            GOOD.replace(b'"success": true', b'"success": "secret"', 1), BadReason.NOT_A_TRACE, id="wrong type"
        ),
        pytest.param(
            GOOD.replace(b'"schema_version": 3', b'"schema_version": 4'), BadReason.WRONG_SCHEMA_VERSION, id="newer"
        ),
        pytest.param(
            b'{"schema_version": 9, "run": "secret"}', BadReason.WRONG_SCHEMA_VERSION, id="another shape, newer"
        ),
        pytest.param(
            GOOD.replace(b'"schema_version": 3', b'"schema_version": 0'), BadReason.WRONG_SCHEMA_VERSION, id="version 0"
        ),
    ],
)
def test_a_bad_document_is_named_with_its_reason(raw, reason):
    with pytest.raises(BadFileError) as caught:
        decode(raw, DECODER)
    assert caught.value.reason is reason
    assert caught.value.detail
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_published_schema_version_is_read(version):
    raw = json.dumps(trace(schema_version=version)).encode()
    assert decode(raw, DECODER).run_id == "run-1"


def test_unknown_fields_are_tolerated():
    raw = json.dumps(trace(new_field={"a": [1]})).encode()
    assert len(decode(raw, DECODER).steps) == 2


def test_the_place_of_a_wrong_type_is_named():
    raw = GOOD.replace(b'"success": true', b'"success": 3', 1)
    with pytest.raises(BadFileError, match=r"\$\.steps\[0\]\.success"):
        decode(raw, DECODER)


def test_a_file_over_the_limit_is_refused_by_its_size():
    with pytest.raises(BadFileError) as caught:
        check_size(2 * 2**30)
    assert caught.value.reason is BadReason.TOO_LARGE


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("acme/run-1.json", True),
        ("run-1.json", True),
        ("acme/run-1.json.tmp", False),
        ("acme/.run-1.json", False),
        ("acme/.run-1.json.123.tmp", False),
        (".cache/run-1.json", False),
        ("acme/run-1_screens/0000.png", False),
        ("acme/run-1_screens/meta.json", False),
        ("acme/notes.txt", False),
    ],
)
def test_only_finished_trace_files_are_traces(path, expected):
    assert is_trace_name(path) is expected


def test_names_under_which_writers_write_are_known():
    assert is_temporary_name("acme/run.json.part") and is_temporary_name("acme/.run.json")
    assert not is_temporary_name("acme/run.json")


def test_screenshots_lie_beside_the_trace():
    assert screens_folder("acme/run.v2.json") == "acme/run.v2_screens"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.000001", 1),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_instants_are_read_with_their_offset(text, expected):
    assert instant_us(text) == expected
