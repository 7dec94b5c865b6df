"""Configurations with comments and trailing commas are read; errors still name the right place."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.config import load_config
from trafficrefinery.config.load import UnclosedCommentError, without_comments
from trafficrefinery.errors import ConfigError

SERVICE = '{"Name": "A", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}'


def write(tmp_path, text: str):
    path = tmp_path / "config.json"
    path.write_text(text)
    return path


def test_comments_and_trailing_commas_mean_nothing(tmp_path):
    text = f"""// of this sensor
    {{ /* several
    lines */ "Interval": "5s", // "Interval": "10s",
      "Description": "not // a comment, /* nor */ this, ]",
      "Services": [{SERVICE},], /**/
    }} // the end"""
    config = load_config(write(tmp_path, text))
    plain = {
        "Interval": "5s",
        "Description": "not // a comment, /* nor */ this, ]",
        "Services": [json.loads(SERVICE)],
    }
    assert config.to_dict() == load_config(write(tmp_path, json.dumps(plain))).to_dict()
    assert config.description == "not // a comment, /* nor */ this, ]"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{ // one\n  /* two */ "Services": x}', "line 2 column 25"),
        ('{"Services": [], /* no end', "line 1 column 18"),
        ('{\n\n  "Services": [] /', "line 3 column 18"),
        ('{"Services": [,]}', "line 1 column 15"),
        ('{"Services": [1,,]}', "line 1 column 17"),
    ],
)
def test_errors_name_the_place_in_the_file(tmp_path, text, where):
    with pytest.raises(ConfigError, match=re.escape(where)):
        load_config(write(tmp_path, text))


def test_a_comment_without_an_end_is_named():
    with pytest.raises(UnclosedCommentError, match="the comment is not closed"):
        without_comments("{} /* never")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_plain_json_stays_as_it_is(value):
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert without_comments(text) == text


@given(json_values, st.sampled_from(["// x\n", "/* x */", '/* " */', '// " \\ \n', "/*\n*/", " "]))
def test_comments_between_tokens_change_neither_values_nor_places(value, comment):
    lines = json.dumps(value, indent=1).split("\n")
    text = f"{comment}\n".join(lines)
    plain = without_comments(text)
    assert json.loads(plain) == value
    assert len(plain) == len(text)
    assert [at for at, letter in enumerate(plain) if letter == "\n"] == [
        at for at, letter in enumerate(text) if letter == "\n"
    ]


def test_the_shared_case_is_read(shared_cases):
    assert load_config(shared_cases / "comments.json").services
