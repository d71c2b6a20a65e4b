"""The recorder of a run: its log files, TensorBoard events, progress line and learning-rate schedule."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from utils import LAYERS_LOG, LOGS, LOSS_LOG, RATE_LOG, TEST_LOG, TRAIN_LOG, VALIDATION_LOG
from utils.logs.layers_csv import HEADER, LayerRow, csv_text, group_means
from utils.logs.log_files import LogFiles
from utils.logs.progress import duration, is_terminal, seconds_per_epoch, time_left
from utils.miscellaneous import AverageMeter, erase_bar, progress_bar
from utils.schedules import ADAPTIVE, COSINE, MOST_EPOCHS, AdaptiveDrops, Schedule, ends_the_run, scale_rates

LARGEST_BIN = 1e20  # of TensorBoard's histograms
SUMMARY_EVERY = 50
GAIN = "meta/scale"  # TensorBoard's tag of M's gain
REDRAW_SECONDS, PLAIN_LINE_SECONDS = 0.1, 10.0  # on a terminal, elsewhere


class Recorder:
    """Writes into the folder `SummaryPath` (made if need be)

    - loss.txt, train-acc.txt, lr.txt: a row "iteration, value" per iteration t = 0, 1, ...; loss and top-1 accuracy (percent)
      are running means since the epoch's start;
    - test-acc.txt: a row "epoch, value" per epoch 1, 2, ...; with `validation` also val-acc.txt;
    - with `layers` also layers.csv: a row per epoch and quantized layer (LayerRow);
    - TensorBoard events.

    `stop` becomes True when the learning rate falls below LOWEST_LR by the schedule "adaptive".
    dataset_name: the notebook's argument, ignored. state: what `state_dict` gave; the files are cut back to where they were then
    (an empty one: to nothing). None: the files are added to. epochs: how many there will be, for the time left. Raises BadInput,
    and changes no file, where what would be left of one is not what it was; InUse where another process writes it.
    """

    _CHECKPOINTED = ("iteration", "test_acc", "epoch_losses", "seconds_per_epoch", "stop")  # attributes

    def __init__(
        self,
        SummaryPath: str | Path,
        dataset_name: str = "CIFAR10",
        state: dict[str, Any] | None = None,
        epochs: int | None = None,
        validation: bool = False,
        layers: bool = False,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(SummaryPath)
        self.path.mkdir(parents=True, exist_ok=True)
        self.epochs = epochs
        self.stop = False
        self.iteration = 0  # the number of the next row
        self.test_acc: list[float] = []
        self.val_acc: list[float] = []
        self.epoch_losses: list[float] = []
        self.seconds_per_epoch: list[float] = []
        self.levels: dict[str, Tensor] = {}  # which the next rows of layers.csv need, as `record_layers` got them
        self.loss, self.top1 = AverageMeter(), AverageMeter()
        self._adaptive = AdaptiveDrops()
        self._started = self._drawn = time.perf_counter()
        self._has_bar = False
        logs = (*LOGS, *[VALIDATION_LOG] * validation, *[LAYERS_LOG] * layers)
        self._logs = LogFiles(self.path, logs)
        if state is not None:
            self._restore(state)
        if layers and not self._logs.sizes[LAYERS_LOG]:
            self._logs.write(LAYERS_LOG, HEADER)
        self._threads_errors, threading.excepthook = threading.excepthook, self._pass_over
        self._writer = SummaryWriter(str(self.path), purge_step=self.iteration if state is not None else None)

    def _pass_over(self, args: threading.ExceptHookArgs) -> None:
        """Prints no traceback of an OSError in TensorBoard's thread: the writer raises it at its next call."""
        if not issubclass(args.exc_type, OSError):
            self._threads_errors(args)

    @property
    def files(self) -> list[tuple[Path, int]]:
        """The logs by their paths and descriptors."""
        return self._logs.opened

    def _restore(self, state: dict[str, Any]) -> None:
        sizes = state["log_sizes"] if state else dict.fromkeys(self._logs.sizes, 0)
        if LAYERS_LOG in self._logs:
            sizes = {LAYERS_LOG: 0, **sizes}  # earlier checkpoints know no layers.csv
        self._logs.cut_back(sizes, state.get("log_hashes", {}))
        if not state:
            return
        for name in (*self._CHECKPOINTED, *self._validated):
            setattr(self, name, state[name])
        self._adaptive = AdaptiveDrops.from_state(state)
        for meter, (total, count) in zip((self.loss, self.top1), state["meters"], strict=True):
            meter.sum, meter.count = total, count
            meter.avg = total / count if count else 0.0
        self.levels = state.get("levels", {})
        self._started = time.perf_counter() - state["elapsed"]

    @property
    def _validated(self) -> list[str]:
        """The attributes that a checkpoint holds of a run with validation alone."""
        return ["val_acc"] if VALIDATION_LOG in self._logs else []

    def state_dict(self) -> dict[str, Any]:
        """Curves, running means, the schedule, and each file's length and SHA-256; the files are safely on disk by then."""
        return {
            **{name: getattr(self, name) for name in self._CHECKPOINTED},
            **self._adaptive.state_dict(),
            **{name: getattr(self, name) for name in self._validated},
            "meters": [(meter.sum, meter.count) for meter in (self.loss, self.top1)],
            "elapsed": time.perf_counter() - self._started,
            **({"levels": self.levels} if LAYERS_LOG in self._logs else {}),
            **self._logs.state_dict(),
        }

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # what happened first says more
                raise

    @property
    def epoch(self) -> int:
        """Epochs that have ended, each with its test accuracy."""
        return len(self.test_acc)

    def reset_performance(self) -> None:
        """Begins an epoch: the running means and the clock start anew."""
        self.loss.reset()
        self.top1.reset()
        self._started = time.perf_counter()

    def update(
        self,
        loss,
        acc,
        batch_size: int,
        cur_lr: float | None = None,
        end: float | None = None,
        is_train: bool = True,
        val_acc: float | None = None,
    ):
        """Records an iteration (is_train), or the test accuracy that ends an epoch.

        loss: of the batch; acc: percent, or a list that begins with top-1; cur_lr: alpha; val_acc: the epoch's validation
        accuracy, percent, which is not written without `validation`. end: ignored, the recorder has its own clock. Raises
        ValueError where `validation` asks for val_acc and it is None.
        """
        top1 = float(acc[0] if isinstance(acc, (list, tuple)) else acc)
        if not is_train:
            if val_acc is None and VALIDATION_LOG in self._logs:
                raise ValueError("Recorder(validation=True) needs val_acc, the epoch's validation accuracy")
            self._end_epoch(top1, val_acc)
            return
        self.loss.update(float(loss), batch_size)
        self.top1.update(top1, batch_size)
        for log, value in ((LOSS_LOG, self.loss.avg), (TRAIN_LOG, self.top1.avg), (RATE_LOG, cur_lr)):
            if value is not None:
                self._logs.write(log, f"{self.iteration}, {value:.8g}\n")
        self.iteration += 1
        if (self.iteration - 1) % SUMMARY_EVERY == 0:
            self._summarise({"train/loss": self.loss.avg, "train/accuracy": self.top1.avg, "lr/alpha": cur_lr})

    def record_gradient(self, gain: float, cosine: float, meta_lr: float) -> None:
        """A learned gradient's gain, its cosine with STE's, and gamma: TensorBoard only."""
        self._summarise({GAIN: gain, "meta/cosine with STE": cosine, "lr/gamma": meta_lr})

    def record_layers(self, rows: Sequence[LayerRow], W_tilde: Mapping[str, np.ndarray], levels: dict[str, Tensor]) -> None:
        """Records an epoch's rows of layers.csv, before its test accuracy; in TensorBoard means over groups of layers.

        W_tilde: layer -> values, whose histograms TensorBoard shows. levels: what the next epoch's rows depend on, for the
        checkpoint.
        """
        self._logs.write(LAYERS_LOG, csv_text(rows))
        self._summarise(group_means(rows))
        for layer, values in W_tilde.items():
            if np.abs(values).max(initial=0) < LARGEST_BIN:
                self._writer.add_histogram(f"W_tilde/{layer}", values, self._step)
        self.levels = levels

    def _end_epoch(self, test_acc: float, val_acc: float | None) -> None:
        self._erase_bar()
        self.test_acc.append(test_acc)
        self.epoch_losses.append(self.loss.avg)
        now = time.perf_counter()
        self.seconds_per_epoch.append(now - self._started)
        self._started = now
        self._logs.write(TEST_LOG, f"{self.epoch}, {test_acc:.8g}\n")
        scalars = {"train/loss": self.loss.avg, "train/accuracy": self.top1.avg, "test/accuracy": test_acc}
        if VALIDATION_LOG in self._logs:
            self.val_acc.append(val_acc)
            self._logs.write(VALIDATION_LOG, f"{self.epoch}, {val_acc:.8g}\n")
            scalars["validation/accuracy"] = val_acc
        self._summarise(scalars)
        self.flush()

    def flush(self) -> None:
        """Hands what is written so far to the operating system."""
        self._logs.flush()

    def _summarise(self, scalars: dict[str, float | None]) -> None:
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, self._step)

    @property
    def _step(self) -> int:
        """The step of TensorBoard events, the last iteration: a run that is resumed drops those of the iterations to come."""
        return max(0, self.iteration - 1)

    def print_training_result(self, batch_idx: int, n_batch: int) -> None:
        """Shows how far the epoch is (batch_idx from 0), and the time left: a bar ten times a second on a terminal, a line every
        ten seconds elsewhere. The bar of a run whose number of epochs is known goes when the epoch's test ends.
        """
        now, terminal = time.perf_counter(), is_terminal(sys.stderr)
        last = terminal and batch_idx + 1 == n_batch
        if now - self._drawn < (REDRAW_SECONDS if terminal else PLAIN_LINE_SECONDS) and not last:
            return
        self._drawn, elapsed = now, now - self._started
        left = time_left(batch_idx + 1, n_batch, elapsed, self.seconds_per_epoch, self.epochs)
        of_all, of_run = (f"/{self.epochs}", f", run {duration(left.run)}") if self.epochs else ("", "")
        known = f": loss {self.loss.avg:.4f}, train {self.top1.avg:.2f} %" if self.loss.count else ""
        message = f"epoch {self.epoch + 1}{of_all} ({duration(left.epoch)} left{of_run}){known}"
        progress_bar(batch_idx, n_batch, message, elapsed, end="" if self.epochs else "\n")
        self._has_bar = terminal and (bool(self.epochs) or not last)

    def _erase_bar(self) -> None:
        if self._has_bar:
            erase_bar()
        self._has_bar = False

    def pace(self) -> str:
        """How long an epoch takes, and the time left where it is known how many there will be; "" before the first one's end."""
        usual = seconds_per_epoch(self.seconds_per_epoch)
        if usual is None:
            return ""
        to_come = (self.epochs or 0) - self.epoch
        elapsed = time.perf_counter() - self._started  # of the next epoch: more than none where it is resumed
        left = time_left(0, 0, elapsed, self.seconds_per_epoch, self.epochs).run
        return f"{usual:.1f} s per epoch" + (f", {duration(left)} left" if to_come > 0 else "")

    def adjust_lr(self, optimizer: Optimizer, adjust_type: int | str, epoch: int, meta_optimizer: Optimizer | None = None):
        """Sets alpha for the epoch after `epoch` (from 0): initial_lr x DROP for every drop so far.

        adjust_type: as Schedule.adjust: a number n, a drop after every n-th epoch; "60,120", a drop after each of these;
        "cosine", which needs the recorder's `epochs`; "adaptive", AdaptiveDrops, and `stop` below LOWEST_LR. meta_optimizer:
        gamma follows alpha. Raises ValueError for an unknown adjust_type.
        """
        if adjust_type == ADAPTIVE:
            factor = self._adaptive.after_epoch(self.loss.avg)
        else:
            with suppress(ValueError):  # of a text that is no number: a schedule by name, or milestones
                adjust_type = int(adjust_type)
            schedule = Schedule(adjust_type)
            if adjust_type == COSINE and self.epochs is None:
                raise ValueError(f"the schedule {COSINE} needs the number of epochs: Recorder(..., epochs=...)")
            factor = schedule.factor(epoch + 1, per_epoch=1, epochs=self.epochs or MOST_EPOCHS)
        scale_rates((optimizer, meta_optimizer), factor)
        self.stop = adjust_type == ADAPTIVE and ends_the_run(optimizer)

    def get_best_test_acc(self) -> float:
        """The highest test accuracy so far, percent. Raises ValueError before the first epoch's end."""
        return max(self.test_acc)

    def validation_result(self) -> dict[str, float]:
        """The last and the best validation accuracy, and the test accuracy of the first epoch with the best one, percent.

        Empty without validation, and before the first epoch's end.
        """
        if not self.val_acc:
            return {}
        best = max(self.val_acc)
        at_best = self.test_acc[self.val_acc.index(best)]
        return {"val_top1": self.val_acc[-1], "best_val_top1": best, "top1_at_best_val": at_best}

    def close(self) -> None:
        """Closes the files. TensorBoard opens its own by name: what it still holds is dropped where the folder is another one."""
        self._erase_bar()
        is_own = self._logs.in_place
        self._logs.close()
        try:
            if is_own:
                self._writer.close()
        finally:
            threading.excepthook = self._threads_errors
