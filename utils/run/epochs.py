"""The epochs of a run: training, the log, the test after each, the learning rate's schedule, checkpoints on the way.

The iteration count of the training loop is the one clock: epoch and batch follow from it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from torch.optim import Optimizer

from meta_utils.capture import CudaGraphs
from meta_utils.iterations import Iterations, Measured
from meta_utils.layer_statistics import first_levels, layer_statistics
from meta_utils.not_finite import NotFinite
from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.errors import RunFailed
from utils.files.text import counted
from utils.quantize import Evaluation, evaluate
from utils.recorder import Recorder
from utils.run.build import Loaders
from utils.run.common_settings import Settings
from utils.run.description import description
from utils.run.folder.finite import first_not_finite
from utils.run.folder.record import fault_of_result
from utils.run.folder.run import Run
from utils.schedules import ADAPTIVE, LOWEST_LR, scale_rates

COMPARE_EVERY = 100  # iterations between two comparisons of M's gradient with STE's


def fit(loop: TrainingLoop, loaders: Loaders, run: Run) -> None:
    """Trains for the run's epochs, from its checkpoint on; after each epoch evaluates and adjusts the learning rate."""
    settings, per_epoch = run.settings, len(loaders.train)
    validated, has_layers = loaders.validation is not None, loop.quantizer is not None
    options = {"epochs": settings.epochs, "validation": validated, "layers": has_layers}
    with Recorder(run.path, settings.dataset, state=run.resume(loop), **options) as recorder:
        print(description(run, loop.net, loaders, recorder.pace()), flush=True)
        recorder.stop &= settings.schedule.follows_loss  # a checkpoint of an earlier version may have it after another schedule
        if has_layers and not recorder.levels:
            recorder.levels = first_levels(loop, loop.iteration == recorder.epoch * per_epoch)
        iterations = checked_iterations(loop, loaders.train, graphs_of(run, loaders.train), recorder.epoch, run)
        while recorder.epoch < settings.epochs and not recorder.stop:
            run.give_way(loop, recorder)
            train_epoch(iterations, recorder, run)
            val_acc = None
            if validated:
                val_acc = test(loop, interruptible(loaders.validation, run, loop, recorder), run, "validation").top1
            evaluation = test(loop, interruptible(loaders.test, run, loop, recorder), run, "test")
            if has_layers:
                record_layers(loop, recorder)
            recorder.update(loss=None, acc=evaluation.top1, batch_size=0, is_train=False, val_acc=val_acc)
            end_epoch(loop, settings, per_epoch, recorder)
            print(describe_epoch(recorder), flush=True)
            run.after_epoch(loop, recorder, evaluation)
        if recorder.epoch < settings.epochs:
            run.end_early(recorder, f"alpha fell below {LOWEST_LR:.0e} (--lr-adjust {ADAPTIVE})")


def describe_epoch(recorder: Recorder) -> str:
    """The last epoch in a line."""
    found = recorder.validation_result()
    validation = f"validation accuracy {found['val_top1']:.2f} % (best {found['best_val_top1']:.2f} %), " if found else ""
    return (
        f"epoch {recorder.epoch}: loss {recorder.loss.avg:.4f}, train accuracy {recorder.top1.avg:.2f} %, {validation}"
        f"test accuracy {recorder.test_acc[-1]:.2f} % (best {recorder.get_best_test_acc():.2f} %), {recorder.pace()}"
    )


def graphs_of(run: Run, loader: Loader) -> CudaGraphs | None:
    """What captures the run's iterations: CUDA graphs, unless --eager is given or the loader waits for the host."""
    wanted = run.device.type == "cuda" and loader.capturable and not run.settings.eager
    return CudaGraphs(run.device) if wanted else None


def checked_iterations(loop: TrainingLoop, loader: Loader, graphs: CudaGraphs | None, epoch: int, run: Run) -> Iterations:
    """The loop's iterations on a loader's batches, captured where that does what eager iterations do.

    run.json says whether they are ("captured"), and why not where the check, or a later capture, failed ("eager_because"); also
    how many iterations an epoch has, and what the optimizers were built with.
    """
    run.write(iterations_per_epoch=len(loader), optimizers=loop.hyperparameters(), captured=graphs is not None)
    if graphs is not None and run.settings.schedule.changes(run.settings.epochs):
        loop.use_device_rates()
    iterations = Iterations(loop, loader, graphs, run.note_eager, partial(set_rates, loop, run.settings, len(loader)))
    iterations.check_capture(epoch)
    return iterations


def set_rates(loop: TrainingLoop, settings: Settings, per_epoch: int, iteration: int) -> None:
    """Sets the rates of an iteration (from 0) by the run's schedule; one that follows the training loss leaves them."""
    if not settings.schedule.follows_loss:
        scale_rates(scheduled(loop, settings), settings.schedule.factor(iteration, per_epoch, settings.epochs))


def end_epoch(loop: TrainingLoop, settings: Settings, per_epoch: int, recorder: Recorder) -> None:
    """Sets the rates that the next iteration begins with; by the epoch's loss where the schedule follows it."""
    optimizee, follows = scheduled(loop, settings)
    if settings.schedule.follows_loss:
        recorder.adjust_lr(optimizee, ADAPTIVE, recorder.epoch - 1, meta_optimizer=follows)
    else:
        set_rates(loop, settings, per_epoch, loop.iteration)


def scheduled(loop: TrainingLoop, settings: Settings) -> tuple[Optimizer, Optimizer | None]:
    """The optimizers whose rates the schedule sets: alpha's, and with --meta-lr-adjust gamma's."""
    return loop.optimizee, loop.meta_optimizer if getattr(settings, "meta_lr_adjust", None) else None


def train_epoch(iterations: Iterations, recorder: Recorder, run: Run) -> None:
    """One pass over the training data, or what is left of it."""
    loop, per_epoch = iterations.loop, len(iterations.loader)
    loop.net.train()
    if loop.iteration == recorder.epoch * per_epoch:
        recorder.reset_performance()
    try:
        for measured in iterations.rest_of_epoch(recorder.epoch):
            due = run.is_due(loop)
            compares = loop.learned and (loop.iteration - 1) % COMPARE_EVERY == 0  # with STE, by the state of this iteration
            write_log(measured + iterations.read() if due or compares else measured, loop, recorder, run)
            if due:
                run.after_iteration(loop, recorder)
            recorder.print_training_result((loop.iteration - 1) % per_epoch, per_epoch)
    except NotFinite as error:
        loss, where = error.args
        raise RunFailed(f"the training loss is {loss} at iteration {loop.iteration}, {where}; {run.last_checkpoint()}") from None


def test(loop: TrainingLoop, batches: Iterable, run: Run, what: str) -> Evaluation:
    """An evaluation after an epoch, its name being `what`. Raises RunFailed where its loss is not finite."""
    evaluation = evaluate(loop.net, loop.quantizer, batches)
    if fault := fault_of_result(evaluation._asdict(), what):
        name = first_not_finite(loop.net.state_dict())
        where = f"{name} is not finite" if name else "with every parameter finite"
        raise RunFailed(
            f"{fault} after {counted(loop.iteration, 'iteration')}, {where}; {run.last_checkpoint(bad=loop.iteration)}"
        )
    return evaluation


def record_layers(loop: TrainingLoop, recorder: Recorder) -> None:
    """Records the rows of layers.csv of the epoch that ends. On CUDA this waits once, for all of its numbers."""
    found = layer_statistics(loop, recorder.levels)
    rows, W_tilde = found.read(recorder.epoch + 1)
    recorder.record_layers(rows, W_tilde, found.levels)


def write_log(measured: Sequence[Measured], loop: TrainingLoop, recorder: Recorder, run: Run) -> None:
    """Records iterations that have been read. Raises RunFailed where a loss is not finite."""
    first = recorder.iteration
    for loss, top1, size, lr in measured:
        if not math.isfinite(loss):
            advice = f"{run.again()} with --device cpu to resume there and to name the layer if it happens again"
            raise RunFailed(f"the training loss is {loss} at iteration {recorder.iteration}; {run.last_checkpoint()}; {advice}")
        recorder.update(loss=loss, acc=top1, batch_size=size, cur_lr=lr)
    if measured and loop.learned and (recorder.iteration - 1) // COMPARE_EVERY > (first - 1) // COMPARE_EVERY:
        recorder.record_gradient(*loop.compare_with_ste(), meta_lr=loop.meta_lr)


def interruptible(batches: Iterable, run: Run, loop: TrainingLoop, recorder: Recorder) -> Iterator:
    """The batches of an evaluation, and before each a way out after a signal: an evaluation changes no state."""
    for batch in batches:
        run.give_way(loop, recorder)
        yield batch
