"""What cannot be parsed: the usual slips by their place and in plain words, everything else in YAML's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.spec.report import Report
from runtime.spec.tree import parse

WORKFLOW = """\
name: hello
nodes:
  - name: clean
    handler: clean.py
  - name: score
    handler: "score.py"
"""


def problem(text: str) -> str:
    """Return the only problem of a file as `line:column: what; remedy`."""
    report = Report("")
    parse(text.encode(), report)
    (found,) = report.problems
    assert found.code == "yaml-syntax"
    return f"{found.line}:{found.column}: {found.what}; {found.remedy}"


@pytest.mark.parametrize(
    ("written", "slip", "told"),
    [
        (
            "    handler: clean.py",
            "\thandler: clean.py",
            "4:1: a tab stands where YAML wants spaces; indent with spaces, two for each level",
        ),
        (
            "handler: clean.py",
            "handler:\tclean.py",
            "4:13: a tab stands where YAML wants spaces; write a space in its place",
        ),
        (
            "name: clean",
            "name:clean",
            '3:5: the colon of "name" has no space behind it; write "name: clean"',
        ),
        (
            "handler: clean.py",
            "handler:clean.py",
            '4:5: the colon of "handler" has no space behind it; write "handler: clean.py"',
        ),
        ("name: hello", "name:hello", '1:1: the colon of "name" has no space behind it; write "name: hello"'),
        ("- name: clean", "-name: clean", '3:3: the dash of a list item has no space behind it; write "- name: clean"'),
        (
            "  - name: score",
            " - name: score",
            "5:2: this list item begins in column 2, that of line 3 in column 3; write 2 spaces before it, not 1",
        ),
        (
            "  - name: score",
            "   - name: score",
            "5:4: this list item begins in column 4, that of line 3 in column 3; write 2 spaces before it, not 3",
        ),
        (
            "  - name: score",
            "      - name: score",
            "5:7: this list item begins in column 7, that of line 3 in column 3; write 2 spaces before it, not 6",
        ),
        (
            "    handler: clean.py",
            "   handler: clean.py",
            '4:4: "handler" begins in column 4, "name" of line 3 in column 5; write 4 spaces before it, not 3',
        ),
        (
            "    handler: clean.py",
            "     handler: clean.py",
            '4:6: "handler" stands below "name" of line 3, which has a value already; write 4 spaces before it, not 5',
        ),
        (
            "name: hello",
            "  name: hello",
            '2:1: "nodes" begins in column 1, "name" of line 1 in column 3; write 2 spaces before it, not 0',
        ),
        (
            "nodes:",
            " nodes:",
            '2:2: "nodes" stands below "name" of line 1, which has a value already; begin it at the start of the line',
        ),
        (
            '"score.py"',
            '"score.py',
            '6:14: the quote that begins here is not closed in its line; write " at the end of the text',
        ),
        (
            "name: hello",
            'name: "hello',
            '1:7: the quote that begins here is not closed in its line; write " at the end of the text',
        ),
        (
            "name: clean",
            "name: 'clean",
            "3:11: the quote that begins here is not closed in its line; write ' at the end of the text",
        ),
        (
            "name: hello",
            "name: hello\ndescription: it's: here",
            '2:14: the text of "description" holds a colon with a space behind it; '
            "put it into quotes: description: 'it''s: here'",
        ),
        (
            "handler: clean.py",
            "secrets: [A, B\n    handler: clean.py",
            '5:12: a comma or "]" is missing before this; look at the bracket opened at line 4',
        ),
    ],
)
def test_a_slip_is_told_where_it_is_with_what_to_write(written: str, slip: str, told: str) -> None:
    assert WORKFLOW.count(written) == 1

    assert problem(WORKFLOW.replace(written, slip)) == told


def test_comments_and_empty_lines_between_a_slip_and_where_it_shows_do_not_hide_it() -> None:
    told = problem("name:hello\n\n# the nodes:\nnodes: []\n")

    assert told == '1:1: the colon of "name" has no space behind it; write "name: hello"'


def test_what_is_no_usual_slip_keeps_the_words_of_yaml() -> None:
    assert problem("a: %b\n") == (
        "1:4: not YAML: found character '%' that cannot start any token; look at what begins at line 1"
    )


@given(st.text(alphabet=" \t\n-:'\"[]{}#,|>&*%ab\r\x85", max_size=60))
def test_no_text_is_too_strange_to_be_answered(text: str) -> None:
    parse(text.encode(), Report(""))
