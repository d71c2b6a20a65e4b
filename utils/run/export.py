"""`export`: a run's quantized net as a file, which is read back and tested before it takes its name."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.batches import Loader
from utils.choices import FLOAT32
from utils.errors import BadInput, RunFailed, reason
from utils.files.look import look_at, why_no_folder
from utils.files.markdown import markdown_table
from utils.files.regular import open_new
from utils.files.text import counted
from utils.quantize import Evaluation, evaluate
from utils.quantizers.quantizer import Quantizer
from utils.run.build import build_net
from utils.run.evaluation import Progress, Trained
from utils.run.exported.about import IMAGE_SIZE, About
from utils.run.exported.packed_file import PackedFile
from utils.run.exported.read import build_exported, read_exported
from utils.run.folder.record import fault_of_result, read_record
from utils.run.paths import EXPORTED, ONNX

ONNX_TOLERANCE = 1e-4  # of logits, absolute plus relative: onnxruntime adds in another order


def check_target(target: Path) -> None:
    """Raises BadInput where a file cannot be written: another ending, no folder, something there that is no export."""
    if target.suffix not in EXPORTED:
        raise BadInput(f"FILE {target} must end in {' or '.join(EXPORTED)}")
    if target.suffix == ONNX:
        from utils.run.exported.onnx_file import require_packages

        require_packages()
    if why := why_no_folder(target.parent):
        raise BadInput(f"FILE {target}: {target.parent} cannot be written to: {why}")
    if look_at(target, "FILE") is None and not target.is_symlink():
        return
    try:
        if target.is_symlink():
            raise BadInput("it is a link")
        read_exported(target)
    except BadInput as error:
        raise BadInput(f"FILE {target} exists and is not replaced, because it is no export ({error}); name another") from None


def export_net(trained: Trained, loader: Loader, target: Path) -> str:
    """Writes the net of a run, tests what was written on the loader's images, and returns a table of sizes and accuracies.

    trained: in float32, as the file. The target is replaced once everything is well. Raises BadInput for a run that is not
    quantized, has no checkpoint or weights that no net computes with; RunFailed where the file cannot be written, or gives other
    logits than the run's net.
    """
    if trained.quantizer is None:
        raise BadInput(f"{trained.path} is the run of a base model: it has no quantized weights to export")
    cpu = torch.device("cpu")
    net = build_net(trained.model, loader, cpu, keep=trained.keep, precision=trained.precision)
    progress = trained.load_into(net)
    before, logits = _tested(net, trained.quantizer, loader)
    if fault := fault_of_result(before._asdict()):
        raise BadInput(f"{trained.path}: {fault}: the net cannot compute with these weights")
    about = _about(trained, progress, loader, before)
    packed = PackedFile.of_net(net, trained.quantizer, about)
    if target.suffix == ONNX:
        from utils.run.exported.onnx_export import onnx_bytes

        content = onnx_bytes(net, trained.quantizer, about)
    else:
        content = packed.to_bytes()
    with _written(content, target) as temporary:
        try:
            other = build_exported(read_exported(temporary), temporary, loader, cpu)
        except BadInput as error:
            raise RunFailed(f"{target} is not written, because it could not be read back: {error}") from None
        after, others = _tested(other, None, loader)
        _compare(logits, others, before, after, target)
    parameters = sum(p.numel() for p in other.parameters())
    in_float32 = packed.nbytes - sum(w.nbytes - 4 * w.count for w in packed.weights.values())
    sizes = [f"{number:,}" for number in (parameters, in_float32, packed.nbytes, len(content))]
    accuracies = [f"{result.top1:.2f} %" for result in (before, after)]
    head = ["parameters", "bytes in float32", "bytes packed", "bytes of the file", "ratio", "accuracy before", "after"]
    table = markdown_table(head, [*sizes, f"{in_float32 / len(content):.1f}", *accuracies])
    return f"wrote {target}\n\n{table}"


def _about(trained: Trained, progress: Progress, loader: Loader, result: Evaluation) -> About:
    """progress: of the checkpoint that is exported; the record may be ahead of it or behind."""
    record = read_record(trained.path)
    settings, images = record["settings"], loader.image_set
    done, planned = progress.epochs, settings.get("epochs", 0)
    if record["state"] != "done":
        state = "has failed" if record["state"] == "failed" else "is unfinished"
        iterations = counted(progress.iterations, "iteration")
        print(f"note: {trained.path} {state}: {done} of {planned} epochs, {iterations}", file=sys.stderr)
    if settings["precision"] != FLOAT32:
        before = f"{trained.path} was trained in {settings['precision']}"
        print(f"note: {before}; the file computes in float32, as do both accuracies", file=sys.stderr)
    return About(
        architecture=trained.model,
        num_classes=images.num_classes,
        keep=list(trained.keep),
        quantizer=settings["quantizer"],
        bits=settings.get("bits") or trained.quantizer.bits,
        image_size=IMAGE_SIZE,
        mean=list(images.mean),
        std=list(images.std),
        dataset=trained.dataset,
        test=result._asdict(),
        run=trained.path.resolve().name,
        epochs_done=done,
        epochs=planned,
        contents={name: digest for name, digest in trained.made_of.contents.items() if digest},
        commit=(record.get("git") or {}).get("commit"),
        versions=record.get("versions", {}),
    )


def _tested(net: nn.Module, quantizer: Quantizer | None, loader: Loader) -> tuple[Evaluation, Tensor]:
    """The evaluation and all logits (N, num_classes)."""
    outputs = []
    hook = net.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    try:
        result = evaluate(net, quantizer, loader)
    finally:
        hook.remove()
    return result, torch.cat(outputs)


def _compare(logits: Tensor, others: Tensor, before: Evaluation, after: Evaluation, target: Path) -> None:
    """Raises RunFailed where the file gives other logits (packed: other bits) or another accuracy than the run."""
    largest = (logits - others).abs().max().item()
    if target.suffix == ONNX:
        same = torch.allclose(logits, others, rtol=ONNX_TOLERANCE, atol=ONNX_TOLERANCE)
    else:
        same = torch.equal(logits, others)
    if not same or before.top1 != after.top1:
        here, there = (f"{result.top1:.2f} %" for result in (after, before))
        accuracy = f"its accuracy is {here}, not {there}" if here != there else f"its accuracy is {here}, too"
        differences = f"its logits differ by up to {largest:.3g}, {accuracy}"
        raise RunFailed(f"{target} is not written: read back, it gives other results: {differences}")


@contextmanager
def _written(content: bytes, target: Path) -> Iterator[Path]:
    """A file with this content beside the target, which takes the target's name once the body is through."""
    temporary = target.with_name(f".export-{os.getpid()}{target.suffix}")
    try:
        with open_new(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise RunFailed(f"{target} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
