#!/usr/bin/env python3
"""MetaQuant (Chen, Wang, Pan, NeurIPS 2019): the command line. Each subcommand is a recipe; `main.py COMMAND -h` says more."""

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from torch import nn

from meta_utils.training import TrainingLoop
from utils import MAIN
from utils.benchmark.costs import MACHINES, this_cpu
from utils.benchmark.costs import table as scale_table
from utils.benchmark.throughput import measure_throughput
from utils.benchmark.throughput import table as throughput_table
from utils.benchmark.timing import ITERATIONS, count_costs, measure, write_json
from utils.benchmark.timing import table as benchmark_table
from utils.choices import MODELS, OPTIMIZEES
from utils.cli.parser import build_parser, flags_without_effect, parse_training
from utils.dataset import get_dataloader
from utils.environment import choose_device, describe, keep_freed_memory, seed_everything, versions
from utils.errors import BadInput, Finished, Interrupted, RunFailed
from utils.quantize import Evaluation, evaluate, get_quantizer
from utils.report.report import make_report
from utils.run.base_model import check_base_model, check_start, load_base_model, load_start, write_base_model
from utils.run.build import TEST_BATCH_SIZE, build_loop, build_net, load_data
from utils.run.checkpoint import Checkpoints
from utils.run.epochs import fit
from utils.run.folder import Run
from utils.run.record import base_model_path, check_record, digest_of, read_record, run_path
from utils.run.settings import OF_THE_COMMAND, pretraining_settings, training_settings
from utils.tables.engines import make_engine, train_command
from utils.tables.scheduler import Scheduler
from utils.tables.selection import State, fetch_data, select_runs, status_table, without_base_model
from utils.tables.slurm import slurm_script


def pretrain(args: Namespace) -> None:
    """Train the full-precision base model."""
    settings = pretraining_settings(args)
    target = base_model_path(args.results_root, args.model, args.dataset)
    path = target.parent / f"pretrain-trial-{args.trial}"
    if not args.overwrite:
        check_base_model(target, path, settings)
    device = choose_device(args.device, args.deterministic, args.tf32)
    train_loader, test_loader = load_data(settings, seed_everything(args.seed, args.trial), device)
    net = build_net(args.model, train_loader, device)
    optimizee = OPTIMIZEES["SGD-M"].build(net.parameters(), lr=args.init_lr, weight_decay=args.weight_decay)
    loop = TrainingLoop(net, optimizee, quantizer=None)
    with Run(path, settings, device, args.overwrite) as run:
        fit(loop, train_loader, test_loader, run)
        write_base_model(net.state_dict(), target)


def train(args: Namespace) -> None:
    """Train a quantized net with STE or a learned gradient, from a base model."""
    settings = training_settings(args)
    path = run_path(settings)
    if not args.overwrite:
        check_record(path, settings)
    check_start(settings)
    device = choose_device(args.device, args.deterministic, args.tf32)
    train_loader, test_loader = load_data(settings, seed_everything(args.seed, args.trial), device)
    loop = build_loop(settings, train_loader, device)
    load_start(loop.net, settings)
    with Run(path, settings, device, args.overwrite) as run:
        run.write(base_model=run.record.get("base_model") or digest_of(settings["pretrained"]))
        fit(loop, train_loader, test_loader, run)


def evaluate_files(args: Namespace) -> None:
    """Test accuracy and the distinct weight values per layer, of a run's folder or a base-model file."""
    path, quantizer = Path(args.path), None
    if not path.exists():
        raise BadInput(f"{path}: there is no such folder or file")
    if path.is_dir():
        settings = read_record(path)["settings"]
        model, dataset = settings.get("model"), settings.get("dataset")
        if not (model in MODELS and dataset):
            raise BadInput(f"{path / 'run.json'} is not a run's record: model {model}, data set {dataset}")
        if "quantizer" in settings:
            try:
                quantizer = get_quantizer(settings["quantizer"], settings.get("bits", 1))
            except ValueError as error:
                raise BadInput(f"{path / 'run.json'}: {error}") from None
    else:
        model, dataset = args.model, args.dataset
        if not (model and dataset):
            raise BadInput(f"{path}: a base-model file needs -m/--model and -d/--dataset")
    test_loader = get_dataloader(dataset, "test", TEST_BATCH_SIZE, data_root=args.data_root)
    net = build_net(model, test_loader, choose_device(args.device))
    if path.is_dir():
        state = Checkpoints(path).load()
        if state is None:
            raise BadInput(f"{path} has no checkpoint yet")
        net.load_state_dict(state["loop"]["net"])
    else:
        load_base_model(path, net, f"-m {model} -d {dataset}")
    print_evaluation(evaluate(net, quantizer, test_loader), net, quantizer)


def report(args: Namespace) -> None:
    """Runs beside the published numbers: tables, verdicts, fairness and errata; with --out also files and pictures."""
    found, problems = make_report(args.roots)
    for problem in problems:
        print(f"{args.program.name}: warning: {problem}", file=sys.stderr)
    if args.out:
        found.write(Path(args.out))
    print(found.markdown())


def benchmark(args: Namespace) -> None:
    """Time the methods against STE, interleaved in one process; or several runs at once."""
    cells = (args.models, args.batch_sizes, args.quantizers, args.methods)
    if args.scale:
        if args.out:
            raise BadInput("--out: --scale only prints")
        print(scale_table(count_costs(*cells, args.optimizer), (this_cpu(), *MACHINES)))
        return
    target = Path(args.out).absolute() if args.out else None
    if target and (target.is_dir() or not target.parent.is_dir()):
        raise BadInput(f"--out {args.out}: {'this is a folder' if target.is_dir() else 'there is no such folder'}")
    device = choose_device(args.device, tf32=args.tf32)
    args.iterations = args.iterations or ITERATIONS[device.type]
    if args.at_once:
        work = {"optimizer": args.optimizer, "device": str(device), "iterations": args.repeats * args.iterations}
        found = measure_throughput(*cells, args.at_once, **work, tf32=args.tf32, eager=args.eager)
        done, shown = f"{work['iterations']} iterations of each run", throughput_table(found)
    else:
        found = measure(*cells, args.optimizer, device, args.repeats, args.iterations, args.eager)
        done, shown = f"{args.repeats} x {args.iterations} iterations", benchmark_table(found)
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{describe(device)}; {done}; {packages}\n\n{shown}")
    if target:
        flags = {name: value for name, value in vars(args).items() if name not in OF_THE_COMMAND}
        write_json(found, target, device, flags)


def tables(args: Namespace) -> None:
    """Run what is missing of the paper's tables, or say how far they are."""
    runs = select_runs(args, parse_training)
    if args.action == "status":
        print(status_table(runs))
    elif args.engine == "slurm":
        print(slurm_script(args, len(runs)))
    elif args.dry_run:
        print("\n".join(shlex.join(train_command(run)) for run in runs))
    else:
        to_do = [run for run in runs if run.state()[0] is not State.DONE]
        failures = without_base_model(to_do)
        fetch_data(run for run in to_do if run not in failures)
        runnable = [run for run in runs if run not in failures]
        failures |= Scheduler(runnable, make_engine(args), args.retries).carry_out()
        for run, why in failures.items():
            print(f"failed: {run}: {why}")
        if failures:
            raise RunFailed(f"{len(failures)} of {len(runs)} runs failed; the same command tries them again")


def print_evaluation(result: Evaluation, net: nn.Module, quantizer) -> None:
    """Accuracies, then a line per layer with its distinct weight values (up to 8 of them; BWN-F has two per filter)."""
    print(f"top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}")
    if quantizer is None:
        return
    for layer in net.meta_layers():
        W = layer.weight.detach()
        values = quantizer.quantize(quantizer.preprocess(W), W).unique()
        shown = ", ".join(f"{value:.4g}" for value in values[:8].tolist()) + (", ..." if len(values) > 8 else "")
        print(f"{layer.name:24} {W.numel():>8} weights, {len(values)} values: {shown}")


COMMANDS = {
    "pretrain": pretrain,
    "train": train,
    "evaluate": evaluate_files,
    "report": report,
    "benchmark": benchmark,
    "tables": tables,
}


def main(argv: list[str] | None = None, program: str | Path = MAIN) -> int:
    """Runs a subcommand; returns 0, or the exit code of what stopped it: see utils/errors.py.

    program: the file that calls this, where it is another than main.py; the runs of `tables` are processes of it.
    """
    program = Path(program).absolute()
    parser = build_parser(COMMANDS, program)
    args = parser.parse_args(argv)
    if not hasattr(args, "function"):
        parser.print_help()
        return 0
    keep_freed_memory()
    try:
        for note in flags_without_effect(args):
            print(f"note: {note}", file=sys.stderr)
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:  # what read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Finished as finished:
        print(finished)
    except (BadInput, RunFailed) as error:
        print(f"{program.name}: error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        print(f"{program.name}: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print(f"{program.name}: stopped before training began", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
