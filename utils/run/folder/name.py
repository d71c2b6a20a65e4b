"""The name of a training run's folder, built from its main settings."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from utils.choices import META_NETWORKS, STE
from utils.run.paths import checked_name, experiment_folder
from utils.run.settings import TrainSettings

LONGEST_KEEP = 60  # characters of --keep's patterns in a run's name


def run_name(settings: TrainSettings) -> str:
    """The folder name of a training run."""
    s = settings
    warmup = f"-warmup-{s.warmup}" if s.warmup else ""
    quantized = f"{s.quantizer}-{{}}{s.optimizer}-{s.bits}bits-lr-{str(s.lr_adjust).replace(',', '-')}{warmup}"
    if s.backward not in META_NETWORKS:
        name = "Baseline-" + ("" if s.backward == STE else f"{s.backward}-") + quantized.format("optimizer-")
    else:
        sizes = (("hidden-size", s.hidden_size), ("nfc", s.num_fc), ("nlstm", s.num_lstm))
        size = "".join(f"-{tag}-{value}" for tag, value in sizes if value is not None)
        name = f"Meta-{s.backward}-Nonlinear-{s.meta_nonlinear or 'None'}{size}-{quantized.format('')}"
    spec = f"-{s.exp_spec}" if s.exp_spec else ""
    keep = f"-keep-{patterns_label(s.keep)}" if s.keep else ""
    return f"{name}{spec}{keep}-trial-{s.trial}"


def patterns_label(patterns: Sequence[str]) -> str:
    """Patterns of layers' names for a folder's name, each other one with another text: conv1+fc.

    Where they hold other characters than letters, digits, '.' and '_', or are long, their first characters, with '_' for the
    others, and a part of their SHA-256: _.downsample._++a9c0e2f1b3d4.
    """
    text = "+".join(patterns)
    if re.fullmatch(r"[A-Za-z0-9._+]*", text) and not any("+" in pattern for pattern in patterns) and len(text) <= LONGEST_KEEP:
        return text
    digest = hashlib.sha256(" ".join(patterns).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9._+]', '_', text)[:LONGEST_KEEP]}++{digest}"


def run_path(settings: TrainSettings) -> Path:
    """The folder of a training run. Raises BadInput where its name is too long."""
    name = checked_name(run_name(settings), "make -e/--exp-spec shorter")
    return experiment_folder(settings.results_root, settings.model, settings.dataset) / "runs-Quant" / name
