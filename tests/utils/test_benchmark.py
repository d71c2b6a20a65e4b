"""The benchmark: what it prints and writes. What it finds is the machine's."""

import json

import pytest


def test_benchmark_prints_a_table_and_writes_json(call_main, tmp_path):
    out = tmp_path / "b.json"
    methods = ["plain", "STE", "MultiFC", "FC-Grad:tanh"]
    arguments = ["--methods", *methods, "--batch-sizes", "2", "--quantizers", "BWN", "--repeats", "2", "--iterations", "1"]
    outcome = call_main("benchmark", *arguments, "--device", "cpu", "--out", out)
    assert outcome.code == 0, outcome.err
    rows = [line.strip("| ").split(" | ") for line in outcome.out.splitlines() if line.startswith("| ResNet20")]
    assert [row[:4] for row in rows] == [["ResNet20", "2", "BWN", method] for method in methods]
    record = json.loads(out.read_text())
    assert {"device", "versions", "git", "settings", "peak_memory"} <= set(record)
    plain, ste, multi, _ = record["measurements"]
    assert ste["ratio_to_ste"] == 1
    assert plain["ratio_to_plain"] == 1
    assert multi["fastest"] <= multi["seconds"] <= multi["slowest"]
    assert multi["images_per_second"] == pytest.approx(2 / multi["seconds"])
    assert ste["phases"]["meta"] == 0
    for one in (ste, multi):
        assert min(one["phases"]["forward"], one["phases"]["backward"]) > 0
        assert sum(one["phases"].values()) == pytest.approx(1, abs=0.02)
    assert multi["phases"]["meta"] > 0


@pytest.mark.parametrize("method", ["RNN", "STE:relu", "LSTMFC:tanh", "MultiFC:gelu"])
def test_unknown_methods_are_refused(method, call_main):
    outcome = call_main("benchmark", "--methods", method)
    assert outcome.code == 2
    assert "--methods" in outcome.err
    assert repr(method) in outcome.err
