"""What is run, as data: the tables, cells and settings of a manifest (scripts/manifest.toml, which explains its own format)."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import PROJECT
from utils.errors import BadInput, reason, shortened
from utils.files.text import is_scalar, shown
from utils.files.untrusted import MIB, read_limited
from utils.tables.cells import Cell

MANIFEST = PROJECT / "scripts" / "manifest.toml"
MANIFEST_LIMIT = MIB
MAX_TRIALS = 1000  # of a cell
PROTOCOLS = ("logs", "paper")
ALL = "all"  # in the place of tables: every table
# Set by the cell, the trial or a flag:
NOT_SETTINGS = (*Cell._fields, "trial", "pretrained", "results-root", "data-root", "overwrite", "help")
Key = tuple[Cell, str | None]  # of a row: its cell and exp-spec


@dataclass(frozen=True)
class Row:
    """A cell of a table: how often it is run, with which settings, and what was printed.

    settings: those of all cells, of the rules that the cell meets, and its own. varied: the settings, with dashes, in which it
    differs from the cell's other rows in a sweep, as texts.
    """

    cell: Cell
    trials: int
    settings: dict[str, Any]  # main.py train's long flags without their dashes -> values
    published: str | None  # mean (population variance) of the last 10 epochs, percent
    varied: Mapping[str, str] = field(default_factory=dict)

    @property
    def exp_spec(self) -> str | None:
        """The name by which its runs' folders differ from those of the cell's other variants."""
        spec = self.settings.get("exp-spec")
        return None if spec is None else str(spec)

    @property
    def key(self) -> Key:
        """What identifies it among the rows of a manifest."""
        return self.cell, self.exp_spec

    def __str__(self) -> str:
        """ResNet20 CIFAR10 dorefa SGD STE (exp-spec short, init-lr 0.01)."""
        own = ({"exp-spec": shortened(self.exp_spec)} if self.exp_spec else {}) | dict(self.varied)
        return f"{self.cell} ({', '.join(f'{name} {value}' for name, value in own.items())})" if own else str(self.cell)


TYPES = {dict: "a table", list: "an array", int: "an integer", str: "a text"}  # in TOML's words


@dataclass(frozen=True)
class Rule:
    """Settings for the cells that have one of the named values in every named field."""

    when: dict[str, list[str]]
    settings: dict[str, Any]
    protocol: str | None  # None: in every protocol

    def meets(self, cell: Cell) -> bool:
        """Whether the cell has one of the values in every field."""
        return all(getattr(cell, field) in values for field, values in self.when.items())


def read_manifest(path: str | Path, protocol: str) -> dict[str, tuple[Row, ...]]:
    """The rows of the manifest's tables by name, with the settings of a protocol.

    Raises BadInput for a file that cannot be read, is damaged, or says something that is not understood, naming the place.
    """
    origin = f"--manifest {path}"
    try:
        content = tomllib.loads(read_limited(path, MANIFEST_LIMIT).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{origin}: {reason(error)}") from None
    except RecursionError:
        raise BadInput(f"{origin}: it is nested too deep") from None
    _check(content, origin, {"tables": dict}, {"trials": int, "settings": dict, "rules": list})
    _check_settings(content.get("settings", {}), f"{origin}, settings")
    _check_trials(content.get("trials", 1), origin)
    rules = [rule for rule in _rules(content.get("rules", []), origin) if rule.protocol in (None, protocol)]
    defaults = content.get("settings", {}), content.get("trials", 1)
    tables = {name: _table(entry, rules, *defaults, f"{origin}, table {name}") for name, entry in content["tables"].items()}
    if ALL in tables:
        raise BadInput(f"{origin}: a table cannot be called {ALL}, which stands for every table")
    if not any(tables.values()):
        raise BadInput(f"{origin}: it lists no cells")
    _check_shared_rows(tables, origin)
    for rule in rules:
        if not any(rule.meets(row.cell) for rows in tables.values() for row in rows):
            raise BadInput(f"{origin}: no cell matches the rule with when = {rule.when}")
    return tables


def _table(table: Any, rules: list[Rule], settings: dict[str, Any], trials: int, where: str) -> tuple[Row, ...]:
    """The rows of a table, each cell with its settings and its number of trials: its own, the table's, or the manifest's."""
    _check(table, where, {"dataset": str, "cells": list}, {"trials": int})
    rows: dict[Key, Row] = {}
    for number, entry in enumerate(table["cells"], 1):
        names = [field for field in Cell._fields if field != "dataset"]
        known = {"published": str, "trials": int, "set": dict}
        _check(entry, here := f"{where}, cell {number}", dict.fromkeys(names, str), known)
        cell = Cell(dataset=table["dataset"], **{field: entry[field] for field in names})
        count, own = entry.get("trials", table.get("trials", trials)), entry.get("set", {})
        _check_trials(count, here)
        _check_settings(own, here)
        of_rules = {key: value for rule in rules if rule.meets(cell) for key, value in rule.settings.items()}
        row = Row(cell, count, overridden(settings | of_rules, own), entry.get("published"))
        if row.key in rows:
            raise BadInput(f"{here}: {row} is listed twice; give one of the two an exp-spec in its `set`")
        rows[row.key] = row
    return tuple(rows.values())


def overridden(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others over them. A phi of theirs takes the place of meta-init: both say where M starts."""
    return {name: value for name, value in settings.items() if name != "meta-init" or "phi" not in own} | own


def _check_shared_rows(tables: Mapping[str, tuple[Row, ...]], origin: str) -> None:
    """Raises BadInput where a cell has other settings in another table, but the same folders."""
    seen: dict[Key, tuple[str, Row]] = {}
    for name, rows in tables.items():
        for row in rows:
            first, other = seen.setdefault(row.key, (name, row))
            if other.settings != row.settings:
                raise BadInput(
                    f"{origin}, table {name}: {row} has other settings in table {first}; give one an exp-spec in its `set`"
                )


def _rules(entries: list[Any], origin: str) -> list[Rule]:
    """The rules, in their order."""
    rules = []
    for number, entry in enumerate(entries, 1):
        where = f"{origin}, rule {number}"
        _check(entry, where, {"why": str, "set": dict}, {"when": dict, "protocol": str})
        _check_settings(entry["set"], where)
        when = {field: [value] if isinstance(value, str) else value for field, value in entry.get("when", {}).items()}
        _check(when, f"{where}, when", {}, dict.fromkeys(Cell._fields, list))
        protocol = entry.get("protocol")
        if protocol not in (None, *PROTOCOLS):
            raise BadInput(f"{where}: protocol must be one of {', '.join(PROTOCOLS)}, not {shown(protocol)}")
        rules.append(Rule(when, entry["set"], protocol))
    return rules


def _check(entry: Any, where: str, needed: dict[str, type], known: dict[str, type]) -> None:
    """Raises BadInput where a key is missing, unknown, or its value of another type."""
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: must be a table of {', '.join(needed)}, not {shown(entry)}")
    for key in needed:
        if key not in entry:
            raise BadInput(f"{where}: {key} is missing")
    for key, value in entry.items():
        kind = (needed | known).get(key)
        if kind is None:
            raise BadInput(f"{where}: unknown key {shown(key)}; the known keys are {', '.join(needed | known)}")
        if type(value) is not kind:
            raise BadInput(f"{where}: {key} must be {TYPES[kind]}, not {shown(value)}")
        if kind is str and not value.isprintable():
            raise BadInput(f"{where}: {key} must be a text without control characters, not {shown(value)}")


def _check_trials(count: int, where: str) -> None:
    if not 1 <= count <= MAX_TRIALS:
        raise BadInput(f"{where}: trials must be at least 1 and at most {MAX_TRIALS}, not {shown(count)}")


def _check_settings(settings: dict[str, Any], where: str) -> None:
    """Raises BadInput for what is not a setting's name, is set by the cell, the trial or a flag, or is no value."""
    for name, value in settings.items():
        if not re.fullmatch(r"[a-z0-9-]{1,100}", name):
            raise BadInput(f"{where}: {shown(name)} is not a setting: the name of one consists of a-z, 0-9 and '-'")
        if name in NOT_SETTINGS:
            raise BadInput(f"{where}: {name} is not a setting: the cell, the trial or a flag of `tables` sets it")
        values = value if isinstance(value, list) else [value]
        if not all(is_scalar(one) and (not isinstance(one, str) or one.isprintable()) for one in values):
            raise BadInput(
                f"{where}: {name} must be a printable text, a finite number, true or false, or a list of them, not {shown(value)}"
            )
