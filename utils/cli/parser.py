"""The command line: a parser whose flags are the fields of the commands' options, and notes on flags without effect."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from utils import MAIN
from utils.benchmark.options import BenchmarkOptions
from utils.choices import PRECISIONS, TF32, is_trained
from utils.errors import shortened
from utils.files.text import printable
from utils.options.kinds import PATH, DataSet, Kind, OneOf, Switch
from utils.options.options import REQUIRED, default_of, flag, noted, settings_of
from utils.run.common_settings import CUDA_ONLY, MODEL, Settings
from utils.run.paths import EXPORTED, ONNX
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, OF_PHI, PretrainSettings, TrainSettings, method_defaults
from utils.tables.options import EngineOptions, Selection


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is False or action.default in (None, (), []):
            return action.help
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error is one line.

    build: adds a command's arguments once they are needed, so that it builds its own flags and no other command's.
    """

    def __init__(self, *args: Any, build: Callable[["Parser"], None] | None = None, **options: Any):
        super().__init__(*args, **options)
        self._build, self._is_command = build, build is not None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._build:
            self._build, build = None, self._build
            build(self)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown and self._is_command:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._closest_flag(unknown[0])}")
        return namespace, unknown

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {printable(shortened(message, 2000))}\n")

    def _closest_flag(self, unknown: str) -> str:
        """The flag that is most like an unknown argument, in words; "" where none is."""
        flags = [name for action in self._actions for name in action.option_strings]
        found = get_close_matches(unknown.partition("=")[0], flags, n=1, cutoff=0.7)
        return f"; did you mean {found[0]}?" if found else ""


def build_parser(commands: dict[str, Callable], program: Path = MAIN) -> Parser:
    """The parser of a program; commands: subcommand -> the function that carries it out, its docstring the help.

    A command that FLAGS does not know has no flags.
    """
    parser = Parser(prog=program.name, description="MetaQuant: 1-bit networks with a learned gradient through the quantizer.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, function in commands.items():
        line = (function.__doc__ or "").partition("\n")[0]
        how = {"help": line, "description": line, "allow_abbrev": False, "formatter_class": HelpFormatter}
        subparsers.add_parser(name, build=FLAGS.get(name), **how).set_defaults(command=name, function=function, program=program)
    return parser


def add_settings(parser: Parser, options: type) -> None:
    """The flags of a subclass of Options."""
    groups = {None: parser}
    for name, entry in settings_of(options).items():
        group = entry.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        add_setting(groups[group], name, entry)


def add_setting(group: Any, name: str, entry: Field) -> None:
    """The flag of a field, with its help text, type and default."""
    about, kind, default = entry.metadata, entry.metadata["kind"], default_of(entry)
    how: dict[str, Any] = {"help": f"{about['text']}; {kind.limits}" if kind.limits else about["text"]}
    if about["metavar"]:
        how["metavar"] = about["metavar"]
    if about["several"]:
        how["nargs"] = "+"
    if about.get("repeatable"):  # given again, it adds to what was given before
        how["action"], default = "extend", list(default)
    if isinstance(kind, Switch):
        how["action"] = "store_true"
    elif isinstance(kind, OneOf):
        how["choices"] = kind.names
    else:
        how["type"] = argument(kind)
    if about["positional"]:
        group.add_argument(name, **how)
    elif default is REQUIRED:
        group.add_argument(*about["short"], flag(name), required=True, **how)
    else:
        group.add_argument(*about["short"], flag(name), default=default, **how)


def argument(kind: Kind) -> Callable[[str], Any]:
    """A kind of value as argparse's type of an argument."""

    def read(text: str) -> Any:
        try:
            return kind.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _pretrain(parser: Parser) -> None:
    add_settings(parser, PretrainSettings)
    _overwrite(parser)


def _train(parser: Parser) -> None:
    add_settings(parser, TrainSettings)
    _overwrite(parser)


def _overwrite(parser: Parser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="start over; the old folder is moved to replaced/")


def _evaluate(parser: Parser) -> None:
    parser.add_argument(
        "path", type=argument(PATH), help="a run's folder, an exported file, or a base-model file (then with -m and -d)"
    )
    parser.add_argument("-m", "--model", type=argument(MODEL), help=f"network of a base-model file; {MODEL.limits}")
    parser.add_argument(
        "-d",
        "--dataset",
        type=argument(DataSet()),
        help="data set of a base-model file; of a run or an export trained on an NPZ file: NPZ:PATH, if the file has moved",
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="precision of products (default: a run's; float32 for a file)")
    for name in ("data_root", "device"):
        add_setting(parser, name, settings_of(Settings)[name])


def _export(parser: Parser) -> None:
    parser.add_argument("path", type=argument(PATH), metavar="RUN_DIR", help="the folder of a quantized run")
    parser.add_argument(
        "file",
        type=argument(PATH),
        metavar="FILE",
        help=".safetensors for packed weights, or .onnx; an older export of this name is replaced, another file is not",
    )
    parser.add_argument("-d", "--dataset", type=argument(DataSet()), help="NPZ:PATH, if the run's NPZ file has moved")
    add_setting(parser, "data_root", settings_of(Settings)["data_root"])


def _report(parser: Parser) -> None:
    parser.add_argument(
        "roots", type=argument(PATH), nargs="+", metavar="ROOT", help="folders that hold runs, at any depth, or CSV files of runs"
    )
    parser.add_argument(
        "--out",
        type=argument(PATH),
        metavar="DIR",
        help="write report.html, report.md, the pictures, the tables (CSV, LaTeX) and runs.csv.xz into DIR",
    )


def _benchmark(parser: Parser) -> None:
    add_settings(parser, BenchmarkOptions)


def _tables(parser: Parser) -> None:
    parser.add_argument("action", choices=["run", "status"], help="run what is not done yet, or show each cell's progress")
    add_settings(parser, Selection)
    add_settings(parser, EngineOptions)


TF32_ON_CPU = f"on the CPU, where {TF32} is float32"
FLAGS = {
    "pretrain": _pretrain,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
    "benchmark": _benchmark,
    "tables": _tables,
}


def flags_without_effect(args: argparse.Namespace) -> list[str]:
    """A line for each flag that was given and does nothing beside the others."""
    if args.command not in FLAGS:
        return []
    parser = Parser()
    FLAGS[args.command](parser)
    notes = []
    for names, why in _without_effect(args):
        given = [name for name in names if getattr(args, name) != parser.get_default(name)]
        notes += [f"{flag(name)} has no effect {why}" for name in given]
    return notes


def _without_effect(args: argparse.Namespace) -> Iterator[tuple[Iterable[str], str]]:
    """Flags that do nothing beside the others, and why."""
    if args.command == "train":
        used = method_defaults(args.backward)
        unused = [name for name in (*META_OPTIONS, *LEARNED_DEFAULTS) if name not in used and name not in OF_PHI]
        yield unused, f"with --backward {args.backward}"
        if not is_trained(args.quantizer):
            yield ["quantizer_lr"], f"with --quantizer {args.quantizer}"
    if args.command in ("pretrain", "train"):
        if args.loader != "torchvision":
            yield ["workers"], f"with --loader {args.loader}"
        if _on_cpu(args.device):
            yield CUDA_ONLY, "on the CPU"
            if args.precision == TF32:
                yield ["precision"], TF32_ON_CPU
        elif args.loader == "torchvision":
            yield ["eager"], "with --loader torchvision"
    elif args.command == "benchmark":
        if args.scale:
            yield ["repeats", "iterations", "device", "precision", "eager"], "with --scale"
        elif _on_cpu(args.device):
            yield noted(BenchmarkOptions, "cuda_only"), "on the CPU"
            if TF32 in args.precision:
                yield ["precision"], TF32_ON_CPU
    elif args.command == "evaluate":
        if os.path.isdir(args.path) or args.path.endswith(EXPORTED):
            yield ["model"], "with a run's folder or an exported file, whose net is recorded"
        if args.path.endswith(ONNX):
            yield ["precision"], "with an ONNX file, which computes in float32"
        elif args.precision == TF32 and _on_cpu(args.device):
            yield ["precision"], TF32_ON_CPU
    elif args.command == "tables":
        if args.action == "status":
            yield settings_of(EngineOptions), "with status"
        elif args.engine != "ray":
            yield ["address"], f"with --engine {args.engine}"


def _on_cpu(device: str) -> bool:
    from utils.environment import resolve_device  # torch

    return resolve_device(device).type == "cpu"
