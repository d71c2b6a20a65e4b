"""Paths on the command line: a "~" that the shell has left as it is, and METAQUANT_PRETRAINED without a value."""

from parsed import parsed
from run_folders import make_run

from utils.tables.options import Selection


def test_the_home_folder_is_meant_where_the_shell_has_not_replaced_it(call_main, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_run(tmp_path / "runs" / "a")
    outcome = call_main("report", "~/runs")
    assert (outcome.code, outcome.err) == (0, "")
    selection = Selection.of(parsed(["tables", "status", "all", "--manifest", "~/m.toml", "--pretrained-root", "~/bases"]))
    assert (selection.manifest, selection.pretrained_root) == (f"{tmp_path}/m.toml", f"{tmp_path}/bases")


def test_a_variable_without_a_value_names_no_folder(monkeypatch):
    monkeypatch.setenv("METAQUANT_PRETRAINED", "")
    assert Selection.of(parsed(["tables", "status", "all"])).pretrained_root is None
