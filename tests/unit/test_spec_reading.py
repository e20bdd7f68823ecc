"""YAML as YAML 1.2 reads it; hostile files end quickly, in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import SpecError
from hpo.spec import load_spec
from hpo.spec.reading import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_scalar, read_yaml
from tests.support.cpu import at_most_cpu
from tests.support.drawn import drawn


def value(text: str) -> object:
    return read_yaml(text.encode(), "x.yaml").value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E5", 1e5),
        ("+1.5e+3", 1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("12", 12),
        ("-0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_numbers_and_words_follow_the_core_schema(text: str, expected: object) -> None:
    result = value(text)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "n",
        "1_000",
        "1:30",
        "2001-01-01",
        "0b11",
        "1e",
        "0x",
        "e5",
        ".",
        "+",
        "1 2",
    ],
)
def test_everything_else_is_text(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize("text", ['"1"', "'true'", '"null"', '""'])
def test_quoted_scalars_are_text(text: str) -> None:
    assert value(text) == text.strip("'\"")


def test_nan_is_read() -> None:
    assert math.isnan(read_scalar(".nan"))


@given(st.floats(allow_nan=False, allow_infinity=False))
@drawn()
def test_every_float_python_writes_is_read_back(number: float) -> None:
    assert value(repr(number)) == number


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_plain)
@drawn(60)
def test_what_a_yaml_writer_writes_is_read_back(data: object) -> None:
    written = yaml.safe_dump(data, default_flow_style=True)
    assert value(written) == data


def test_lines_are_known_for_every_part() -> None:
    document = read_yaml(b"a: 1\nb:\n  c: [1,\n    2]\n  d: {e: 3}\n", "x.yaml")
    assert document.value == {"a": 1, "b": {"c": [1, 2], "d": {"e": 3}}}
    assert document.line(("a",)) == 1
    assert document.line(("b", "c", 1)) == 4
    assert document.line(("b", "d", "e")) == 5
    assert document.line(("b", "nowhere", "x")) == 2, "the nearest part around it"
    assert document.line(("zzz",)) is None


def test_nested_lists_keep_their_place() -> None:
    assert value("[[1, [2]], []]") == [[1, [2]], []]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.yaml: is empty"),
        (b"# only a comment\n", "x.yaml: is empty"),
        (b"a: 1\nb: 2\na: 3\n", "x.yaml, line 3: the key 'a' stands twice (first on line 1)"),
        (b"a:\n  {b: 1, b: 2}", "line 2: the key 'b' stands twice"),
        (b"a: &x 1\nb: *x\n", "x.yaml, line 1: uses the anchor &x; write the value out"),
        (b"a: *x\n", "x.yaml, line 1: uses the alias *x; write the value out"),
        (
            b"a: !!python/object:os.system ls\n",
            "line 1: uses the tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
        (b"a: !!int 3\n", "uses the tag"),
        (b"a: 1\n---\nb: 2\n", "line 2: holds a second document"),
        (b"? [1]\n: 2\n", "line 1: a list or mapping cannot be a key"),
        (b"a: [1, 2\nb: 3\n", "x.yaml, line 2: is not valid YAML:"),
        (
            b"a: b: c\n",
            "x.yaml, line 1: is not valid YAML: mapping values are not allowed in this context; does",
        ),
        (
            b"a 1\nb: 2\n",
            "line 2: is not valid YAML: mapping values are not allowed in this context; does the line before",
        ),
        (b"a: 1\n\tb: 2\n", "line 2: is not valid YAML: a tab stands where YAML takes spaces alone"),
        (b"a:\n  b: 1\n  \tc: 2\n", "line 3: is not valid YAML: a tab stands"),
        (b"a: \x00", "x.yaml: holds a NUL byte"),
        (b"ok: 1\nbad: \xff\xfe\n", "x.yaml, line 2: is not UTF-8 text"),
        (b"ok: 1\nbad: \x07\n", "x.yaml, line 2: holds the control character '\\x07'"),
        (b"a: " + b"9" * 401, "line 1: holds a number of 401 characters; at most 400 digits"),
    ],
)
def test_what_is_no_study_file_gets_a_sentence(content: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_yaml(content, "x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def bomb_of_aliases() -> bytes:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"[" * 900_000, f"nested deeper than {MAX_DEPTH}", id="brackets"),
        pytest.param(b"{a: " * 200_000, f"nested deeper than {MAX_DEPTH}", id="braces"),
        pytest.param(b"- " * 400_000, f"nested deeper than {MAX_DEPTH}", id="dashes"),
        pytest.param(b"? " * 400_000, "a list or mapping cannot be a key", id="question marks"),
        pytest.param(b"[" + b"\n[" * 400_000, f"nested deeper than {MAX_DEPTH}", id="brackets on lines"),
        pytest.param(bomb_of_aliases(), "uses the anchor &a0", id="aliases"),
        pytest.param(b"[" + b"1," * 480_000 + b"1]", f"more than {MAX_NODES:,} values", id="values"),
        pytest.param(b"x" * (MAX_BYTES + 1), f"larger than {MAX_BYTES:,} bytes", id="size"),
        pytest.param(bytes(range(256)) * 3000, "NUL", id="binary"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\xfa" * 100_000, "is not UTF-8", id="picture"),
        pytest.param(b"a: '" + b"x" * 900_000, "is not valid YAML", id="open quote"),
        pytest.param(b"&" * 900_000, "is not valid YAML", id="ampersands"),
    ],
)
def test_bombs_end_quickly_in_one_sentence(content: bytes, message: str) -> None:
    with at_most_cpu(5), pytest.raises(SpecError) as caught:
        read_yaml(content, "bomb.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_of_50_mb_is_refused_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    with file.open("wb") as stream:
        stream.truncate(50_000_000)
    with at_most_cpu(5), pytest.raises(SpecError, match=r"big\.yaml: is larger than 1,000,000 bytes"):
        load_spec(file)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("study: x")
    with pytest.raises(SpecError, match=r"there is no such file; did you mean 'digits\.yaml'"):
        load_spec(tmp_path / "digit.yaml")


def test_a_directory_and_impossible_paths_are_no_study_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory"):
        load_spec(tmp_path)
    with pytest.raises(SpecError):
        load_spec("a\0b")
    with pytest.raises(SpecError):
        load_spec(tmp_path / ("x" * 5000))


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1", "x.yaml").value == {"a": 1}
