"""The epochs of a run: training, the log, the test after each, the learning rate's schedule, checkpoints on the way."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from meta_utils.iterations import CudaGraphs, Iterations
from meta_utils.training import NotFinite, TrainingLoop
from utils.batches import Loader
from utils.errors import RunFailed
from utils.quantize import evaluate
from utils.recorder import Recorder
from utils.run.folder import Run

COMPARE_EVERY = 100  # iterations
LOG_SECONDS = 10.0  # the longest that the log lags behind a GPU within an epoch


def fit(loop: TrainingLoop, train_loader: Loader, test_loader: Loader, run: Run) -> None:
    """Trains for the run's epochs, from where its checkpoint is; after each one tests and adjusts the learning rate."""
    settings = run.settings
    drops_too = loop.meta_optimizer if getattr(settings, "meta_lr_adjust", None) else None
    print(f"{run.path}: {settings.epochs} epochs of {len(train_loader)} iterations on {run.record['device']}", flush=True)
    with Recorder(run.path, settings.dataset, state=run.resume(loop)) as recorder:
        run.write(iterations_per_epoch=len(train_loader), optimizers=loop.hyperparameters())
        replayed = run.device.type == "cuda" and train_loader.capturable and not settings.eager
        iterations = Iterations(loop, train_loader, CudaGraphs(run.device) if replayed else None)
        while recorder.epoch < settings.epochs and not recorder.stop:
            run.give_way(loop, recorder)
            train_epoch(iterations, recorder, run)
            evaluation = evaluate(loop.net, loop.quantizer, interruptible(test_loader, partial(run.give_way, loop, recorder)))
            recorder.update(loss=None, acc=evaluation.top1, batch_size=0, is_train=False)
            recorder.adjust_lr(loop.optimizee, settings.lr_adjust, recorder.epoch - 1, meta_optimizer=drops_too)
            print(
                f"epoch {recorder.epoch}: loss {recorder.loss.avg:.4f}, train accuracy {recorder.top1.avg:.2f} %, "
                f"test accuracy {evaluation.top1:.2f} % (best {recorder.get_best_test_acc():.2f} %)",
                flush=True,
            )
            run.after_epoch(loop, recorder, evaluation)


def train_epoch(iterations: Iterations, recorder: Recorder, run: Run) -> None:
    """One pass over the training data, or what is left of it. On CUDA the log waits for the device at its end, not in between."""
    loop, total = iterations.loop, len(iterations.loader)
    loop.net.train()
    if not recorder.batches:
        recorder.reset_performance()
    for batch_idx, count in enumerate(iterations.begin(recorder.epoch, skip=recorder.batches), start=recorder.batches):
        try:
            iterations.run(count)
        except NotFinite as error:
            loss, where = error.args
            raise RunFailed(
                f"the training loss is {loss} at iteration {loop.iteration}, {where}; {run.last_checkpoint()}"
            ) from None
        waiting = run.device.type == "cuda" and iterations.seconds_unread < LOG_SECONDS and batch_idx + 1 < total
        if not waiting or run.is_due(loop):
            write_log(iterations, recorder, run)
            run.after_iteration(loop, recorder)  # never while the log lags behind
        recorder.print_training_result(batch_idx, total)


def write_log(iterations: Iterations, recorder: Recorder, run: Run) -> None:
    """Records the iterations since the last time. Raises RunFailed where the loss is not finite."""
    loop, first = iterations.loop, recorder.iteration
    for loss, top1, count in iterations.read():
        if not math.isfinite(loss):
            advice = "the same command with --device cpu goes on from there, and names the layer if it happens again"
            raise RunFailed(f"the training loss is {loss} at iteration {recorder.iteration}; {run.last_checkpoint()}; {advice}")
        recorder.update(loss=loss, acc=top1, batch_size=count, cur_lr=loop.lr)
    if loop.learned and (recorder.iteration - 1) // COMPARE_EVERY > (first - 1) // COMPARE_EVERY:
        recorder.record_gradient(*loop.compare_with_ste(), meta_lr=loop.meta_lr)


def interruptible(batches: Iterable, give_way: Callable[[], None]) -> Iterator:
    """The batches, and before each a way out after SIGINT or SIGTERM: evaluation changes no state, so it can be left."""
    for batch in batches:
        give_way()
        yield batch
