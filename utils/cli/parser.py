"""The command line's flags: the parser of main.py's subcommands, and flags without effect."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from utils import MAIN
from utils.choices import DATASETS, LOADERS, LSTM_STATES, MODELS, OPTIMIZEES, QUANTIZERS, STARTS, UPDATE_ORDERS, methods
from utils.cli.types import (
    assignment,
    dataset,
    device,
    interval,
    label,
    lr_adjust,
    method,
    nonlinearity,
    real,
    share,
    whole,
)
from utils.dataset import default_data_root
from utils.environment import resolve_device
from utils.errors import BadInput
from utils.quantize import MAX_BITS
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, method_defaults, training_settings
from utils.tables.engines import ENGINES
from utils.tables.manifest import MANIFEST, PROTOCOLS


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is False or action.default in (None, []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error is one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser(commands: dict[str, Callable], program: Path = MAIN) -> argparse.ArgumentParser:
    """The parser of a program; commands: subcommand -> the function that carries it out, its docstring the help."""
    parser = Parser(prog=program.name, description="MetaQuant: 1-bit networks with a learned gradient through the quantizer.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, function in commands.items():
        help_line = function.__doc__.splitlines()[0]
        sub = subparsers.add_parser(
            name, help=help_line, description=help_line, allow_abbrev=False, formatter_class=HelpFormatter
        )
        FLAGS[name](sub)
        sub.set_defaults(command=name, function=function, program=program)
    return parser


def parse_training(argv: list[str], what: str) -> dict[str, Any]:
    """The resolved settings of `main.py train` with these arguments.

    Raises BadInput, beginning with `what`, where they are wrong.
    """

    class Refusing(Parser):
        def error(self, message: str):
            raise BadInput(f"{what}: {message}")

    parser = Refusing(allow_abbrev=False)
    FLAGS["train"](parser)
    return training_settings(parser.parse_args(argv))


def flags_without_effect(args: argparse.Namespace) -> list[str]:
    """A line for each flag that was given and does nothing beside the others."""
    parser = Parser()
    FLAGS[args.command](parser)
    found = []
    for names, why in _without_effect(args):
        given = [name for name in names if getattr(args, name) != parser.get_default(name)]
        found += [f"--{name.replace('_', '-')} has no effect {why}" for name in given]
    return found


def _without_effect(args: argparse.Namespace) -> Iterator[tuple[Iterable[str], str]]:
    """Flags that do nothing beside the others, and why."""
    if args.command == "train":
        used = method_defaults(args.backward)
        yield [flag for flag in (*META_OPTIONS, *LEARNED_DEFAULTS) if flag not in used], f"with --backward {args.backward}"
    if args.command in ("pretrain", "train"):
        if args.loader != "torchvision":
            yield ["workers"], f"with --loader {args.loader}"
        if resolve_device(args.device).type == "cpu":
            yield ["deterministic", "tf32", "eager"], "on the CPU"
        elif args.loader == "torchvision":
            yield ["eager"], "with --loader torchvision"
    if args.command == "benchmark":
        if args.scale:
            yield ["repeats", "iterations", "device", "tf32", "eager"], "with --scale"
        elif resolve_device(args.device).type == "cpu":
            yield ["tf32", "eager"], "on the CPU"
    if args.command == "evaluate" and Path(args.path).is_dir():
        yield ["model", "dataset"], "with a run's folder, which knows its own"
    if args.command == "tables":
        if args.action == "status":
            yield ["engine", "jobs", "trials_per_device", "cpus_per_run", "retries", "address", "dry_run"], "on status"
        elif args.engine != "ray":
            yield ["address"], f"with --engine {args.engine}"


def _common(parser: Parser, **defaults: object) -> None:
    add = parser.add_argument
    add("-m", "--model", choices=list(MODELS), required=True, help="network")
    add("-d", "--dataset", type=dataset, required=True, help=f"{', '.join(sorted(DATASETS))}, or NPZ:path for your own")
    add("-lr", "--init-lr", type=real(above=0), default=defaults["init_lr"], help="alpha, the learning rate of W")
    add("-n", "--epochs", type=whole(1), default=defaults["epochs"], help="epochs")
    add(
        "-ad",
        "--lr-adjust",
        type=lr_adjust,
        default=defaults["lr_adjust"],
        metavar="N|adaptive",
        help="alpha x 0.1 after every N-th epoch, or after 3 epochs without a new lowest training loss",
    )
    add("-bs", "--batch-size", type=whole(1), default=128, help="images per training batch")
    add("--drop-last", action="store_true", help="leave out an epoch's last batch where it is smaller than the others")
    add("--seed", type=whole(0), default=0, help="everything random follows from (seed, trial)")
    _paths(parser)
    add("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N")
    add("--deterministic", action="store_true", help="the same bits every time on CUDA too, at some cost in speed")
    add("--checkpoint-every", type=interval, default="1", metavar="N|Nit", help="epochs, or iterations, between checkpoints")
    add("--overwrite", action="store_true", help="start over; what is there is moved to replaced/")
    add("--tf32", action="store_true", help="CUDA: multiply in TF32, faster than float32 and less exact")
    add("--eager", action="store_true", help="CUDA: launch every kernel by itself instead of replaying captured iterations")
    add("--loader", choices=sorted(LOADERS), default="resident", help="the whole set on the device, or torch's DataLoader")
    add("--workers", type=whole(0), default=0, help="processes of the torchvision loader; any number gives the same batches")
    add("--stop-after", type=whole(1), metavar="N", help="stop after N iterations in all; the same command without it goes on")


def _paths(parser: Parser) -> None:
    parser.add_argument("--data-root", default=default_data_root(), help="folder of the CIFAR sets (METAQUANT_DATA)")
    parser.add_argument("--results-root", default="Results", help="folder of base models and runs")


def _pretrain(parser: Parser) -> None:
    _common(parser, init_lr=0.1, epochs=200, lr_adjust=60)
    parser.add_argument("--weight-decay", type=real(), default=5e-4, help="weight decay")
    parser.add_argument("--trial", type=whole(1), default=1, help="number of the trial")


def _train(parser: Parser) -> None:
    _common(parser, init_lr=1e-3, epochs=100, lr_adjust=30)
    add = parser.add_argument
    add("-q", "--quantizer", choices=sorted(QUANTIZERS), default="dorefa", help="quantizer of every layer's weights")
    add("-bw", "--bits", type=whole(1, MAX_BITS), default=1, help="bits per weight (BWN and BWN-F take 1)")
    add("-o", "--optimizer", choices=sorted(OPTIMIZEES), default="SGD", help="optimizer of the net")
    add(
        "--weight-decay",
        type=real(),
        help="(default, as published: SGD 0; SGD-M, Nesterov 5e-4; Adam, AMSGrad 5e-4 with a learned gradient, 0 with STE)",
    )
    add("-meta", "--backward", choices=methods(), default="MultiFC", help="gradient through Q: STE, or a meta network")
    add("-hidden", "--hidden-size", type=whole(1), help="M's hidden size (default: 100)")
    add("-nfc", "--num-fc", type=whole(1), help="MultiFC's linear layers (default: 3)")
    add("-nlstm", "--num-lstm", type=whole(1), help="LSTMFC's LSTM layers (default: 1)")
    add("-nonlinear", "--meta-nonlinear", type=nonlinearity, help="between M's linear layers: none, relu or tanh (default: none)")
    add("--meta-init", choices=STARTS, help="M's start; identity: it passes g_W^ on (MultiFC: times W~) (default: random)")
    add("--lstm-state", choices=LSTM_STATES, help="LSTMFC's (h, c) from iteration to iteration (default: carry)")
    add("--meta-lr", type=real(above=0), help="gamma, the learning rate of M (default: 1e-3)")
    add("--meta-lr-adjust", action="store_true", help="gamma drops together with alpha")
    add("-decay", "--meta-weight-decay", type=real(), help="of M's optimizer (default: 0)")
    add("--update-order", choices=UPDATE_ORDERS, help="order of the loop (default: notebook, which made the published curves)")
    add("-e", "--exp-spec", type=label, help="added to the run's folder name")
    add("--trial", type=whole(1), default=1, help="number of the trial; with --seed it fixes everything that is random")
    add("--pretrained", metavar="PATH|none", help="base model (default: the one that pretrain wrote); none: from scratch")


def _evaluate(parser: Parser) -> None:
    parser.add_argument("path", help="a run's folder, or a base-model file (then with -m and -d)")
    parser.add_argument("-m", "--model", choices=list(MODELS), help="network of a base-model file")
    parser.add_argument("-d", "--dataset", type=dataset, help="data set of a base-model file")
    parser.add_argument("--data-root", default=default_data_root(), help="folder of the CIFAR sets (METAQUANT_DATA)")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N")


def _report(parser: Parser) -> None:
    parser.add_argument("roots", nargs="+", metavar="ROOT", help="folders that hold runs, at any depth, or CSV files of runs")
    parser.add_argument(
        "--out", metavar="DIR", help="write report.md, the tables (CSV, LaTeX), runs.csv.xz and pictures into DIR"
    )


def _benchmark(parser: Parser) -> None:
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=["ResNet20"], help="networks")
    add("--batch-sizes", nargs="+", type=whole(1), default=[128], help="images per batch")
    add("--quantizers", nargs="+", choices=sorted(QUANTIZERS), default=["dorefa"], help="quantizers")
    add(
        "--methods",
        nargs="+",
        type=method,
        default=["plain", "STE", "FC-Grad", "MultiFC"],
        help="plain (full precision in torch's default memory format), STE, or meta networks such as MultiFC or MultiFC:tanh",
    )
    add("-o", "--optimizer", choices=sorted(OPTIMIZEES), default="SGD", help="optimizer of the quantized nets; plain's is SGD")
    add("--repeats", type=whole(1), default=7, help="rounds in which the methods take turns")
    add("--iterations", type=whole(1), help="iterations of a method in a round (default: 5 on the CPU, 100 on CUDA)")
    add("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N")
    add("--tf32", action="store_true", help="CUDA: multiply in TF32")
    add("--eager", action="store_true", help="CUDA: launch every kernel by itself instead of replaying captured iterations")
    instead = parser.add_argument_group("instead of timing one run after the other").add_mutually_exclusive_group()
    instead.add_argument(
        "--scale", action="store_true", help="count operations and bytes of an iteration, and what they take at least"
    )
    instead.add_argument(
        "--at-once",
        nargs="+",
        type=whole(1),
        metavar="N",
        help="time N runs at once on the device, a process each, all methods in turn",
    )
    add("--out", metavar="JSON", help="write the measurements with device, versions and commit into this file")


def _tables(parser: Parser) -> None:
    add = parser.add_argument
    add("action", choices=["run", "status"], help="run what is not done yet; or say how far it is")
    add("tables", nargs="+", metavar="TABLE", help="tables of the manifest (table1, table2, fig3), or all")
    add("--manifest", default=str(MANIFEST), metavar="TOML", help="file of the tables to run")
    add("--protocol", choices=PROTOCOLS, default="logs", help="settings as the published logs show, or as the paper's text says")
    chosen = parser.add_argument_group("selection of cells")
    chosen.add_argument("-m", "--model", nargs="+", choices=list(MODELS), help="only these networks")
    chosen.add_argument("-q", "--quantizer", nargs="+", choices=sorted(QUANTIZERS), help="only these quantizers")
    chosen.add_argument("-o", "--optimizer", nargs="+", choices=sorted(OPTIMIZEES), help="only these optimizers")
    chosen.add_argument("-meta", "--backward", nargs="+", choices=methods(), help="only STE, or these meta networks")
    chosen.add_argument("--trials", type=whole(1), metavar="N", help="trials 1 to N (default: the manifest's)")
    chosen.add_argument("--trial", nargs="+", type=whole(1), metavar="T", help="only these trials")
    chosen.add_argument("--slice", type=share, metavar="I/N", help="only the I-th of N shares of the selected runs")
    setting = parser.add_argument_group("settings of the runs")
    setting.add_argument("-n", "--epochs", type=whole(1), help="epochs (default: the manifest's)")
    setting.add_argument(
        "--set", nargs="+", type=assignment, default=[], metavar="NAME=VALUE", help="other flags of train, such as batch-size=64"
    )
    _paths(setting)
    setting.add_argument(
        "--pretrained-root",
        default=os.environ.get("METAQUANT_PRETRAINED"),
        metavar="DIR|none",
        help="folder of base models (METAQUANT_PRETRAINED); else, where pretrain wrote them; none: from scratch",
    )
    how = parser.add_argument_group("engine")
    how.add_argument("--engine", choices=ENGINES, default="local", help="processes here; Ray; or a Slurm array script")
    how.add_argument("--jobs", type=whole(1), help="runs at once (default: all that --trials-per-device allows)")
    how.add_argument("--trials-per-device", type=whole(1), default=1, help="runs that share a GPU, or the CPU")
    how.add_argument("--cpus-per-run", type=whole(1), help="CPU threads of a run (default: cores / runs at once; Ray, Slurm: 1)")
    how.add_argument("--retries", type=whole(0), default=3, help="times that a run whose process was killed is started again")
    how.add_argument("--address", help="of a Ray cluster that is up (default: a Ray of its own on this machine)")
    how.add_argument("--dry-run", action="store_true", help="print the commands, or the Slurm script, and run nothing")


FLAGS = {
    "pretrain": _pretrain,
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "benchmark": _benchmark,
    "tables": _tables,
}
