#!/usr/bin/env python3
"""Does the learned gradient help? The runs of scripts/controls.sh: STE at several learning rates, and M trained and frozen.

    python figs/controls.py [ROOT ...]                  # adds the finished runs below ROOT, prints the tables, draws the curves
    python figs/controls.py ROOT --best-rate QUANTIZER  # prints STE's best learning rate by validation accuracy, for the script
    python figs/controls.py ROOT --phi-of QUANTIZER RATE  # prints the folder of MultiFC's first trial at a rate, for the script

Epochs are stored in figs/controls/epochs.csv.xz (--out DIR: in another folder), where a run replaces the one of the same cell,
settings, data, base model, phi and trial, and M's gain at the start and at the end of a run in gains.csv. Tables and curves,
which --out has beside them too, are made from what is stored there.
"""

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from figs.stored import read_stored, trials_below  # noqa: E402
from utils.choices import STE  # noqa: E402
from utils.files.markdown import markdown_table  # noqa: E402
from utils.files.text import counted  # noqa: E402
from utils.recorder import GAIN  # noqa: E402
from utils.report.against_ste import against_ste_table, best_by_validation  # noqa: E402
from utils.report.csv_files import read_frame, write_csv  # noqa: E402
from utils.report.formatting import number, with_settings  # noqa: E402
from utils.report.pictures import curve_panels, draw_curves, series_of  # noqa: E402
from utils.report.sweeps import sweeps  # noqa: E402
from utils.report.trials import Group, Trial, group_trials  # noqa: E402
from utils.report.validation import AT_BEST, at_best, validation_numbers  # noqa: E402
from utils.run.identity import CONTENTS  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402

STORED, GAINS = "epochs.csv.xz", "gains.csv"


class Gain(NamedTuple):
    """M's gain at the start and at the end of a run: s of g_W_tilde = s g_W_hat (FC-Grad) or s W_tilde g_W_hat (MultiFC)."""

    first: float
    last: float

    def __str__(self) -> str:
        values = dict.fromkeys(f"{value:.3g}" for value in self)
        return " to ".join(values)


GAIN_OF = (*Cell._fields, "exp_spec", "settings", "trial", "seed", "loader")  # the columns that identify a run
Gains = dict[tuple[str, ...], Gain]


def groups_of(trials: Iterable[Trial]) -> list[Group]:
    """The groups of the finished trials, by quantizer, then as the script runs them; labels leave out what all have in common."""
    trials = list(trials)
    settings = [trial.settings for trial in trials]
    common = {k: v for k, v in settings[0].items() if all(each.get(k) == v for each in settings)} if settings else {}
    groups, _ = group_trials(trials, lambda cell: common)
    return sorted(groups, key=lambda group: group.cell[:3])


def best_rate(trials: Iterable[Trial], quantizer: str) -> float:
    """STE's learning rate with the highest validation accuracy in the sweep of a quantizer; of several the first.

    Only first trials count, so that a rerun, which has more trials of the best rate, chooses as the first run did. Exits where
    there is no sweep, or several, or no validation.
    """
    groups = groups_of(trial for trial in trials if trial.number == 1)
    found = [members for (cell, *_), members in sweeps(groups).items() if cell.backward == STE and cell.quantizer == quantizer]
    if len(found) != 1:
        sys.exit(f"there are {len(found)} sweeps of {STE} with {quantizer}, not one")
    best = best_by_validation(sorted(found[0], key=lambda group: group.trials[0].settings["init_lr"]))
    if best is None:
        sys.exit(f"the sweep of {STE} with {quantizer} has no validation images, and test accuracy must not be used to choose")
    return float(best.trials[0].settings["init_lr"])


def phi_of(trials: Iterable[Trial], quantizer: str, rate: float) -> Path:
    """The folder of the first trial of MultiFC, trained from its own start, with a quantizer and a learning rate.

    Exits where there is none, or there are several.
    """
    found = [trial.source for trial in trials if trial.number == 1 and _trains_phi(trial, quantizer, rate)]
    if len(found) != 1:
        listed = "".join(f"\n{folder}" for folder in found)
        sys.exit(f"there are {len(found)} first trials of MultiFC with {quantizer} and init_lr {rate:g}, not one{listed}")
    return found[0]


def _trains_phi(trial: Trial, quantizer: str, rate: float) -> bool:
    cell, s = trial.cell, trial.settings
    is_wanted = (cell.backward, cell.quantizer, s.get("init_lr")) == ("MultiFC", quantizer, rate)
    return is_wanted and trial.state == "done" and s.get("phi") is None and s.get("freeze_phi_after") is None


def collect(roots: Iterable[Path], folder: Path) -> None:
    """Adds the finished runs below the roots to what is stored in the folder. Others are named and skipped."""
    stored, gains = folder / STORED, read_gains(folder)
    found = {_key(trial): trial for trial in read_stored(stored)}
    for trial in trials_below(roots):
        if trial.state == "done" and trial.recorded and "backward" in trial.settings:
            found[_key(trial)] = trial
            if gain := gain_of(trial.source):
                gains[_gain_key(trial)] = gain
        else:
            print(f"{trial.source}: skipped, because it is not a finished run of a quantized net", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(found.values(), stored)
    frame = pd.DataFrame([(*key, *gain) for key, gain in gains.items()], columns=(*GAIN_OF, *Gain._fields))
    frame.to_csv(folder / GAINS, index=False, float_format="%.6g", lineterminator="\n")


def gain_of(run: Path) -> Gain | None:
    """The first and the last gain in a run's TensorBoard events, which have one per 100 iterations; None without any."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload() if run.is_dir() else None
    if events is None or GAIN not in events.Tags()["scalars"]:
        return None
    values = [event.value for event in events.Scalars(GAIN)]
    return Gain(values[0], values[-1])


def read_gains(folder: Path) -> Gains:
    """The stored gains by run; none where there is no file."""
    if not (folder / GAINS).is_file():
        return {}
    frame = read_frame(folder / GAINS, dict.fromkeys(Gain._fields, float))
    if missing := [name for name in GAIN_OF if name not in frame]:
        sys.exit(
            f"{folder / GAINS} has no column {missing[0]}: it is of an earlier version; delete it, and collect the runs again"
        )
    return {row[: len(GAIN_OF)]: Gain(*row[len(GAIN_OF) :]) for row in frame.itertuples(index=False, name=None)}


def _gain_key(trial: Trial) -> tuple[str, ...]:
    """What identifies a run as `_key` does, as texts: its settings and contents by a digest."""
    _, settings, contents, draws = _key(trial)
    digest = hashlib.sha256(json.dumps([settings, contents]).encode()).hexdigest()[:12]
    return (*trial.cell, str(trial.settings.get("exp_spec") or ""), digest, *map(str, draws))


def _key(trial: Trial) -> tuple[Any, ...]:
    return trial.cell, trial.grouping_key, tuple(trial.settings.get(name) for name in CONTENTS), trial.draws


def caption(trials: Sequence[Trial]) -> str:
    """What all of the runs have in common, in a sentence: net, epochs, batch size, validation images, precision, n, device."""
    sizes = [len(group.trials) for group in groups_of(trials)]
    n = (f"{min(sizes)} to " if min(sizes) < max(sizes) else "") + counted(max(sizes), "trial")
    validation = [trial.settings.get("validation") for trial in trials]
    about = (
        _counted([trial.epochs for trial in trials], "epoch"),
        _counted([trial.settings.get("batch_size") for trial in trials], "image", " per batch"),
        _counted(validation, "validation image", "" if all(validation) else " or none"),
        _values(trials, precision),
    )
    net = _values(trials, lambda trial: trial.cell.net)
    parts = net, ", ".join(filter(None, about)), f"n = {n} per cell", made_by(trials)
    return f"{'; '.join(filter(None, parts))}."


def made_by(trials: Iterable[Trial]) -> str:
    """The devices and versions that made the trials, each once with its commits; those of resumed runs, too."""
    commits = defaultdict(set)
    for session in (session for trial in trials for session in trial.made_by.split("; then ")):
        machine, _, commit = session.replace(" 1 threads", " 1 thread").partition(", commit ")  # as earlier records say it
        commits[machine].add(commit)
    listed = []
    for machine, found in sorted(commits.items()):
        named = sorted(filter(None, found))
        commit = f"commit{'s' * (len(named) > 1)} {' and '.join(named)}" if named else ""
        listed += [", ".join(filter(None, (machine, commit)))] if machine else []
    return "; ".join(listed)


def _values(trials: Iterable[Trial], value: Any) -> str:
    return " and ".join(dict.fromkeys(str(value(trial)) for trial in trials))


def _counted(numbers: Iterable[int | None], noun: str, after: str = "") -> str:
    """The different numbers with their noun and what follows it: "3 and 100 epochs"; "" where none is known."""
    *others, last = sorted({number for number in numbers if number}) or [None]
    return " and ".join([*(f"{number:,}" for number in others), counted(last, noun)]) + after if last else ""


def precision(trial: Trial) -> str:
    """The precision of the trial's products."""
    return str(trial.settings.get("precision", "float32"))


def cells_table(trials: Sequence[Trial], gains: Gains) -> str:
    """A row per cell and settings: epochs, alpha, n, validation accuracy, test accuracy at its best epoch, and M's gain."""
    rows = []
    for group in groups_of(trials):
        found = validation_numbers(group.statistics)
        run = with_settings(group.cell.method, group.label)
        alpha, best_val = group.trials[0].settings["init_lr"], number(found.get("best_val", float("nan")), 2)
        gain = ", ".join(str(gains[key]) for trial in group.trials if (key := _gain_key(trial)) in gains)
        about = group.cell.net, run, str(group.epochs), f"{alpha:g}", str(len(group.trials))
        rows.append((*about, best_val, at_best(found), gain))
    return markdown_table(("net", "run", "epochs", "alpha", "n", "best validation", AT_BEST, "M's gain"), *rows)


def answers_table(trials: Sequence[Trial]) -> str:
    """The report's table: each learned cell beside STE's best; "" without one."""
    table = against_ste_table(groups_of(trials))
    return markdown_table(*table.rows()) if table.records else ""


def draw(trials: Sequence[Trial], path: Path) -> None:
    """Training loss and test accuracy of all cells, a row per net and quantizer; epochs and precision in the titles."""
    blocks = defaultdict(list)
    for group in groups_of(trials):
        blocks[group.cell[:3]].append(group)
    rows = []
    for block, groups in blocks.items():
        shown = [trial for group in groups for trial in group.trials]
        about = f"{_counted([trial.epochs for trial in shown], 'epoch')}, {_values(shown, precision)}"
        series = series_of(groups, name=lambda cell: f"{cell.optimizer} {cell.backward}")
        rows.append(curve_panels(f"{' '.join(block)}, {about}", series))
    draw_curves(rows, path)


def main() -> None:
    """Prints a rate or a folder; or collects the runs below the roots, prints the tables and draws the curves."""
    parser = argparse.ArgumentParser(description="Does the learned gradient help? The runs of scripts/controls.sh.")
    parser.add_argument("roots", metavar="ROOT", nargs="*", type=Path, help="folder with runs to add to the stored ones")
    parser.add_argument("--best-rate", metavar="QUANTIZER", help="only print STE's best learning rate below ROOT")
    about_phi = "only print the folder below ROOT whose phi the frozen MultiFC has"
    parser.add_argument("--phi-of", nargs=2, metavar=("QUANTIZER", "RATE"), help=about_phi)
    parser.add_argument("--out", metavar="DIR", type=Path, default=FOLDER / "controls", help="folder of the stored epochs")
    args = parser.parse_args()
    if args.best_rate:
        print(best_rate(trials_below(args.roots), args.best_rate))
        return
    if args.phi_of:
        quantizer, rate = args.phi_of
        try:
            rate = float(rate)
        except ValueError:
            parser.error(f"--phi-of: RATE must be a number, not {rate!r}")
        print(phi_of(trials_below(args.roots), quantizer, rate))
        return
    if args.roots:
        collect(args.roots, args.out)
    trials = read_stored(args.out / STORED)
    if not groups_of(trials):
        sys.exit(f"nothing is stored in {args.out}: name a folder with finished runs of scripts/controls.sh")
    print("\n\n".join(filter(None, [caption(trials), cells_table(trials, read_gains(args.out)), answers_table(trials)])))
    draw(trials, args.out / "curves")


if __name__ == "__main__":
    main()
