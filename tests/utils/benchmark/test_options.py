"""What a benchmark is told: each value once."""

import pytest


@pytest.mark.parametrize(
    "flags",
    [
        ["--models", "ResNet20", "ResNet32", "ResNet20"],
        ["--batch-sizes", "2", "1", "2"],
        ["--quantizers", "BWN", "BWN"],
        ["--methods", "STE", "MultiFC", "STE"],
        ["--methods", "plain", "MultiFC:tanh", "plain"],
        ["--precision", "bf16", "float32", "bf16"],
        ["--at-once", "2", "2"],
    ],
    ids=" ".join,
)
def test_a_value_that_is_there_twice_is_refused(flags, refuses):
    refuses(["benchmark", *flags], [f"{flags[0]}: {flags[-1]} is listed twice"])


@pytest.mark.parametrize("method", ["STE:", "plain:", "MultiFC:"])
def test_a_method_has_one_name(method, refuses):
    refuses(["benchmark", "--methods", method], ["--methods", f"not '{method}'"])
