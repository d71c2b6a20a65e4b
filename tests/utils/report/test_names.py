"""Folders' names with the names of parts of one's own, whatever these hold."""

import re
import subprocess
import sys

from conftest import PROJECT

from utils.report.reading import _any_of


def test_a_registered_name_is_no_pattern():
    names = ["sign(", "a.b", "a", "x|y"]
    assert [name for name in [*names, "axb", "y"] if re.fullmatch(_any_of(names), name)] == names


def test_the_reader_is_imported_whatever_is_registered():
    code = "from utils.choices import QUANTIZERS; QUANTIZERS['sign('] = object; import utils.report.reading"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
