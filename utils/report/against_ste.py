"""Does the learned gradient help? Each learned cell beside the best that STE reaches by any learning rate and optimizer.

STE's best is chosen by validation accuracy; test accuracy is compared, and plays no part in the choice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from utils.choices import STE
from utils.files.text import counted
from utils.report.anchors import settings_anchor
from utils.report.compared import FROM_BEST_STE
from utils.report.formatting import Field, Table, cell_of, difference_and_p, measured, net_of, number, with_settings
from utils.report.statistics import NOT_FINITE
from utils.report.trials import Group, without_renamed
from utils.report.validation import at_best, validation_numbers
from utils.report.verdicts import P_NOTE, differing_settings, welch_test

TITLE = "Does the learned gradient help?"
NONE_TO_COMPARE = "no STE run"
NOTE = (
    "Each learned cell beside the best STE cell of the same net, quantizer, data, epochs and other settings, over all of STE's "
    "learning rates, schedules, optimizers, weight decays and clippings: the one with the highest validation accuracy (each "
    "trial's best epoch, mean over its n trials). Test accuracies in percent at the best validation epoch; difference: learned "
    "minus STE in percentage points; p: Welch's two-sided t-test on the trials' values; "
    f"{P_NOTE}. Only STE's learning rate is chosen: each rate of a learned cell has a row of its own."
)
UNVALIDATED = "{} no validation images and cannot be compared: the best STE cell must not be chosen by test accuracy."


def ste_groups(group: Group, groups: Iterable[Group]) -> list[Group]:
    """STE's groups that differ from a learned one in how W steps alone; of equal runs with two names one."""
    return without_renamed(
        other
        for other in groups
        if other.cell.backward == STE
        and other.cell[:3] == group.cell[:3]
        and {difference.setting for difference in differing_settings(group, other)} <= FROM_BEST_STE
    )


def best_by_validation(groups: Iterable[Group]) -> Group | None:
    """The group with the highest mean of its trials' best validation accuracies, the first of several; None without any."""
    scores = [(group.statistics.best_val, group) for group in groups]
    known = [pair for pair in scores if pair[0] == pair[0]]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def against_ste_table(groups: Sequence[Group]) -> Table:
    """A row per learned group with validation images; the note says how many have none."""
    learned = [group for group in groups if group.is_learned]
    validated = [group for group in learned if group.statistics.at_best_val]
    records = [_record(group, ste_groups(group, groups)) for group in validated]
    tally = Counter(record["verdict"] for record in records)
    counts = ", ".join(f"{verdict} {count}" for verdict, count in tally.most_common())
    without = len(learned) - len(validated)
    said = UNVALIDATED.format(f"{counted(without, 'learned cell')} {'has' if without == 1 else 'have'}") if without else ""
    note = " ".join(filter(None, [NOTE if records else "", said, f"Verdicts: {counts}." if records else ""]))
    return Table(
        "against_ste",
        TITLE,
        records,
        {
            "net": net_of,
            "learned": lambda r: with_settings(cell_of(r).method, r["settings"]),
            "alpha": lambda r: r["alpha"],
            "n": lambda r: Field(str(r["n"]), target=settings_anchor(cell_of(r))),
            "learned, test": at_best,
            "best STE": lambda r: with_settings(r["ste_optimizer"], r.get("ste_settings", "")),
            "of": lambda r: str(r["ste_cells"]),
            "STE's alpha": lambda r: r.get("ste_alpha", ""),
            "STE's n": lambda r: str(r.get("ste_n", "")),
            "STE, test": lambda r: measured(r["ste_at_best_val"], number(r["ste_at_best_val"], 2)) if "ste_n" in r else "",
            "difference": lambda r: NOT_FINITE if r["verdict"] == NOT_FINITE else difference_and_p(r, 2),
            "verdict": lambda r: Field(r["verdict"], verdict=r["verdict"]),
        },
        note,
    )


def _record(group: Group, candidates: Sequence[Group]) -> dict[str, Any]:
    found = group.statistics
    about = {**group.cell._asdict(), "settings": group.label, "alpha": _alpha(group), "n": found.n, **validation_numbers(found)}
    best = best_by_validation(candidates)
    about["ste_cells"] = len(candidates)
    if best is None:
        return {**about, "ste_optimizer": "", "verdict": NONE_TO_COMPARE}
    other = best.statistics
    ste = {f"ste_{name}": value for name, value in validation_numbers(other).items()}
    ste |= {"ste_optimizer": best.cell.optimizer, "ste_settings": best.label, "ste_alpha": _alpha(best), "ste_n": other.n}
    return {**about, **ste, **welch_test(found.at_best_val, other.at_best_val)._asdict()}


def _alpha(group: Group) -> str:
    alpha = group.trials[0].settings.get("init_lr")
    return f"{alpha:g}" if isinstance(alpha, (int, float)) else ""
