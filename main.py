#!/usr/bin/env python3
"""MetaQuant (Chen, Wang, Pan, NeurIPS 2019): the command line. Each subcommand is a recipe; `main.py COMMAND -h` says more.

A command imports what it needs, so that those without tensors start without torch.
"""

import sys

if __name__ == "__main__":

    def say_in_a_line(kind, error, trace):
        if kind is not KeyboardInterrupt:
            sys.__excepthook__(kind, error, trace)
        elif sys.stderr:
            print("main.py: stopped by SIGINT", file=sys.stderr)

    sys.excepthook = say_in_a_line  # from here on: Ctrl-C may also come during the imports below

import shlex
from argparse import Namespace
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from utils import MAIN
from utils.errors import BadInput, BadPart, Finished, Interrupted, RunFailed, machine_failure
from utils.files.output import discard, flush_or_discard, prepare_streams
from utils.files.text import printable


def pretrain(args: Namespace) -> None:
    """Train the full-precision base model."""
    from meta_utils.training import TrainingLoop
    from utils.choices import OPTIMIZEES
    from utils.environment import choose_device, keep_freed_memory, seed_everything
    from utils.run.build import build_net, contents_of, load_data
    from utils.run.epochs import fit
    from utils.run.folder.run import Run
    from utils.run.identity import file_digest
    from utils.run.paths import base_model_path
    from utils.run.settings import PretrainSettings
    from utils.run.start.base_model import check_base_model, refuse_links, write_base_model

    s = PretrainSettings.of(args)
    target = base_model_path(s.results_root, s.model, s.dataset)
    path = target.parent / f"pretrain-trial-{s.trial}"
    refuse_links(target)
    if not args.overwrite:
        check_base_model(target, path, s)
    keep_freed_memory()
    device = choose_device(s.device, s.deterministic, s.precision)
    loaders = load_data(s, seed_everything(s.seed, s.trial), device)
    net = build_net(s.model, loaders.train, device, precision=s.precision)
    optimizee = OPTIMIZEES[s.optimizer].build(net.parameters(), lr=s.init_lr, weight_decay=s.weight_decay)
    loop = TrainingLoop(net, optimizee, quantizer=None)
    with Run(path, s, device, args.overwrite, contents_of(loaders, args.program)) as run:
        if args.overwrite:
            run.write(replaces=file_digest(target))
        fit(loop, loaders, run)
        write_base_model(net.state_dict(), target, run.record)
        run.write(wrote=file_digest(target))


def train(args: Namespace) -> None:
    """Train a quantized net with a fixed estimator, a learned gradient or ProxQuant."""
    from utils.environment import choose_device, keep_freed_memory, seed_everything
    from utils.run.build import build_loop, contents_of, load_data
    from utils.run.epochs import fit
    from utils.run.folder.name import run_path
    from utils.run.folder.record import check_record
    from utils.run.folder.run import Run
    from utils.run.nets import check_net_name
    from utils.run.settings import TrainSettings
    from utils.run.start.start import Start

    s = TrainSettings.of(args)
    check_net_name(s.model)
    path = run_path(s)
    start = Start(s, path, resumes=not args.overwrite)
    if not args.overwrite:
        check_record(path, s, start.contents)
    has_weights = start.has_weights()
    keep_freed_memory()
    device = choose_device(s.device, s.deterministic, s.precision)
    loaders = load_data(s, seed_everything(s.seed, s.trial), device)
    contents = contents_of(loaders, args.program) | start.contents
    load = partial(start.load_weights, contents=contents) if has_weights else None
    loop = build_loop(s, loaders.train, device, load)
    start.load_phi(loop.meta_net, contents)
    with Run(path, s, device, args.overwrite, contents) as run:
        fit(loop, loaders, run)


def evaluate_files(args: Namespace) -> None:
    """Print the test accuracy and each layer's weight values, for a run's folder, an exported file or a base-model file."""
    from utils.environment import choose_device, keep_freed_memory
    from utils.quantize import evaluate
    from utils.run.evaluation import describe_evaluation, find_trained

    trained = find_trained(Path(args.path), args.model, args.dataset, args.precision)
    trained.compare_program(args.program)
    keep_freed_memory()
    test_loader = trained.load_test_data(args.data_root)
    net = trained.build(test_loader, choose_device(args.device, precision=trained.precision))
    result = evaluate(net, trained.quantizer, test_loader)
    print(describe_evaluation(result, net, trained.quantized_weights(net)))


def export(args: Namespace) -> None:
    """Write a run's quantized net to a file, with packed weights or as ONNX, and test what was written."""
    from utils.choices import FLOAT32
    from utils.environment import keep_freed_memory
    from utils.run.evaluation import find_run
    from utils.run.export import check_target, export_net

    target = Path(args.file)
    check_target(target)
    trained = find_run(Path(args.path), args.dataset, FLOAT32)
    trained.compare_program(args.program)
    keep_freed_memory()
    print(export_net(trained, trained.load_test_data(args.data_root), target))


def report(args: Namespace) -> None:
    """Compare runs with the published numbers: tables, verdicts, fairness and errata; with --out also files and pictures."""
    from utils.report.report import make_report

    findings, problems = make_report(args.roots)
    for problem in problems:
        print(f"{args.program.name}: warning: {printable(problem)}", file=sys.stderr)
    print(findings.markdown())
    if args.out:
        findings.write(Path(args.out))
        print(f"wrote {args.out}: report.html, report.md, tables and pictures", file=sys.stderr)


def benchmark(args: Namespace) -> None:
    """Time the methods against STE, interleaved in one process; or several runs at once."""
    from utils.benchmark import costs, output, throughput, timing
    from utils.benchmark.options import ITERATIONS, BenchmarkOptions
    from utils.choices import BF16, FLOAT32
    from utils.environment import choose_device, keep_freed_memory

    options = BenchmarkOptions.of(args)
    keep_freed_memory()
    if options.scale:
        table = costs.table(costs.count_costs(options), (costs.this_cpu(), *costs.MACHINES))
        print(f"{output.heading(options, choose_device('cpu'))}\n\n{table}")
        return
    if options.out:
        output.try_out(options.out)
    device = choose_device(options.device, precision=BF16 if BF16 in options.precision else FLOAT32)
    options = replace(options, iterations=options.iterations or ITERATIONS[device.type])
    if options.at_once:
        measurements = throughput.measure_throughput(options, device)
        table = throughput.table(measurements)
    else:
        measurements = timing.measure(options, device)
        table = timing.table(measurements)
    print(f"{output.heading(options, device)}\n\n{table}")
    if options.out:
        output.write_json(measurements, options, device)


def tables(args: Namespace) -> None:
    """Run the missing runs of the paper's tables, or show their progress."""
    from utils.tables.options import EngineOptions, Selection
    from utils.tables.selection import select_runs, status_table
    from utils.tables.slurm import slurm_script

    selection, options = Selection.of(args), EngineOptions.of(args)
    runs = select_runs(selection, args.program)
    if args.action == "status":
        print(status_table(runs))
    elif options.engine == "slurm":
        print(slurm_script(selection, options, runs, args.program))
    elif options.dry_run:
        print("\n".join(shlex.join(run.command) for run in runs))
    else:
        from utils.tables.scheduler import carry_out

        failures = carry_out(runs, options)
        if failures:
            raise RunFailed(f"{len(failures)} of {len(runs)} runs failed; rerun the same command to try them again")


COMMANDS = {
    "pretrain": pretrain,
    "train": train,
    "evaluate": evaluate_files,
    "export": export,
    "report": report,
    "benchmark": benchmark,
    "tables": tables,
}


def main(argv: list[str] | None = None, program: str | Path = MAIN) -> int:
    """Runs a subcommand; returns 0, or the exit code of what stopped it: see utils/errors.py.

    program: the file that calls this, where it is another than main.py; the runs of `tables` are processes of it.
    """
    program = Path(program).absolute()
    prepare_streams()
    try:
        _carry_out(argv, program)
        sys.stdout.flush()
    except BrokenPipeError:  # what read the output, such as head, has gone
        discard(sys.stdout.fileno())
        return 141
    except (BadInput, BadPart, RunFailed, Interrupted) as error:
        wrong = "" if isinstance(error, Interrupted) else "error: "
        print(f"{program.name}: {wrong}{printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program.name}: stopped by SIGINT", file=sys.stderr)
        return 130
    except Exception as error:
        if (why := machine_failure(error)) is None:
            raise
        flush_or_discard(sys.stdout)
        print(f"{program.name}: error: {printable(why)}", file=sys.stderr)
        return RunFailed.exit_code
    return 0


def _carry_out(argv: list[str] | None, program: Path) -> None:
    if find_spec("fcntl") is None:
        raise BadInput("this system is not supported: it lacks POSIX file locks; use Linux or macOS (on Windows: WSL)")
    from utils.cli.parser import build_parser, flags_without_effect

    parser = build_parser(COMMANDS, program)
    args = parser.parse_args(argv)
    if not hasattr(args, "function"):
        parser.print_help()
        return
    for note in flags_without_effect(args):
        print(f"note: {note}", file=sys.stderr)
    try:
        args.function(args)
    except Finished as finished:
        print(printable(str(finished)))


if __name__ == "__main__":
    sys.exit(main())
