"""JSON that other readers take, too."""

import math

import pytest

from utils.files import strict_json


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"a": {"b": 1, "b": 2}}]', "[" * 100_000, "{", ""])
def test_what_is_no_json_or_says_something_twice_is_refused(text):
    for constant in (strict_json.refuse, float):
        with pytest.raises(ValueError, match=r"twice|too deep|Expecting"):
            strict_json.loads(text, constant)


def test_numbers_that_json_does_not_have_are_read_only_from_files_of_earlier_versions():
    text = '{"loss": NaN, "most": -Infinity}'
    with pytest.raises(ValueError, match="NaN is no number of JSON"):
        strict_json.loads(text)
    found = strict_json.loads(text, constant=float)
    assert math.isnan(found["loss"])
    assert found["most"] == -math.inf
    assert strict_json.dumps(found) == '{"loss": "nan", "most": "-inf"}'
