"""What the settings of `pretrain` and of `train` have in common: a field each, with meaning, unit, flags and kind."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from utils import default_data_root
from utils.choices import DATASETS, FLOAT32, LOADERS, PRECISIONS, RESIDENT, TF32, npz_path
from utils.errors import BadInput
from utils.options.kinds import DEVICE, INTERVAL, PATH, DataSet, LearningRateSchedule, NetName, OneOf, Real, Switch, Whole
from utils.options.options import REQUIRED, Options, noted, setting, settings_of
from utils.schedules import DROP, LOWEST_LR, MOST_EPOCHS, PATIENCE, Schedule

MODEL = NetName()
BATCH_SIZE, TRIAL = Whole(1, 1_000_000), Whole(1, 1_000_000)
MOST_IMAGES = 10**9


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """What `pretrain` and `train` have in common. may_differ: where or how, not what, is computed; a run may change it midway."""

    model: str = setting(REQUIRED, "network", "-m", kind=MODEL)
    dataset: str = setting(REQUIRED, f"{', '.join(sorted(DATASETS))}, or NPZ:path for your own", "-d", kind=DataSet())
    init_lr: float = setting(1e-3, "alpha, the learning rate of W", "-lr", kind=Real(above=0))
    epochs: int = setting(100, "number of epochs", "-n", kind=Whole(1, MOST_EPOCHS))
    lr_adjust: int | str = setting(
        30,
        f"N: alpha x {DROP} after every N-th epoch; N,N,...: after each of these epochs; cosine: half a cosine from alpha to 0; "
        f"adaptive: x {DROP} after {PATIENCE} epochs without a new lowest training loss, and the run ends once alpha is below "
        f"{LOWEST_LR:.0e}",
        "-ad",
        kind=LearningRateSchedule(),
        metavar="N|N,N,...|cosine|adaptive",
    )
    warmup: int | None = setting(
        None,
        "epochs of warm-up, in which alpha grows linearly from 0, iteration by iteration; a cosine begins after them; 0: none",
        kind=Whole(0, MOST_EPOCHS),
        metavar="N",
    )
    batch_size: int = setting(128, "images per training batch", "-bs", kind=BATCH_SIZE)
    drop_last: bool = setting(False, "leave out an epoch's last batch if it is smaller than the others", kind=Switch())
    seed: int = setting(0, "with --trial, determines everything random", kind=Whole(0, 2**63 - 1))
    validation: int | None = setting(
        None,
        "training images to hold out and evaluate after every epoch, the same ones for all trials with a --seed; 0: none",
        kind=Whole(0, MOST_IMAGES),
        metavar="N",
    )
    data_root: str = setting(default_data_root, "folder of the CIFAR sets (or METAQUANT_DATA)", kind=PATH, may_differ=True)
    results_root: str = setting("Results", "folder of base models and runs", kind=PATH, may_differ=True)
    device: str = setting("auto", "auto (cuda if there is a GPU, else cpu), cpu, cuda or cuda:N", kind=DEVICE, may_differ=True)
    deterministic: bool = setting(
        False, "CUDA: bit-identical results on every run, somewhat slower", kind=Switch(), cuda_only=True
    )
    checkpoint_every: str = setting(
        "1", "epochs (N) or iterations (Nit) between checkpoints", kind=INTERVAL, metavar="N|Nit", may_differ=True
    )
    precision: str = setting(
        FLOAT32,
        "precision of products: bf16 computes those of the net and of LSTMFC in bf16, by torch.autocast; tf32 computes all in "
        "TF32 (CUDA only); W, phi, the optimizers and the loss are float32 in any case",
        kind=OneOf(PRECISIONS),
    )
    eager: bool = setting(
        False,
        "CUDA: do not use CUDA graphs",
        kind=Switch(),
        may_differ=True,
        cuda_only=True,
    )
    loader: str = setting(
        RESIDENT, "resident: the whole set on the device; torchvision: torch's DataLoader", kind=OneOf(lambda: sorted(LOADERS))
    )
    workers: int = setting(
        0, "processes of the torchvision loader; any number gives the same batches", kind=Whole(0, 256), may_differ=True
    )
    stop_after: int | None = setting(
        None,
        "stop after N iterations in total; rerun without it to continue",
        kind=Whole(1, 10**12),
        metavar="N",
        may_differ=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if path := npz_path(self.dataset):
            self._set("dataset", f"NPZ:{path.absolute()}")
        for name in ("warmup", "validation"):
            self._set(name, getattr(self, name) or None)
        try:
            self.schedule.check(self.epochs)
        except ValueError as error:
            raise BadInput(str(error)) from None

    def unusual(self, known: Collection[str]) -> list[str]:
        """The names of settings beside the known ones whose value is not the usual one of a run with these known ones."""
        usual = type(self)(**{name: getattr(self, name) for name in known})
        names = [name for name in settings_of(type(self)) if name not in known]
        return [name for name in names if getattr(self, name) != getattr(usual, name)]

    @property
    def schedule(self) -> Schedule:
        """How the learning rate changes."""
        return Schedule(self.lr_adjust, self.warmup or 0)


MAY_DIFFER = tuple(noted(Settings, "may_differ"))
CUDA_ONLY = tuple(noted(Settings, "cuda_only"))


def with_precision(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A record's settings with `precision`; earlier versions recorded `tf32` (true or false) or nothing instead."""
    present = {"precision": TF32 if settings.get("tf32") is True else FLOAT32, **settings}
    present.pop("tf32", None)
    return present
