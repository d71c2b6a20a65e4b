"""What a run will do, in a few lines: they are printed where it starts or goes on."""

from pathlib import Path

from torch import nn

from utils.choices import FLOAT32, TF32
from utils.files.text import counted
from utils.options.options import settings_of
from utils.run.build import Loaders
from utils.run.common_settings import CUDA_ONLY, MAY_DIFFER, Settings
from utils.run.folder.run import Run
from utils.run.paths import NO_BASE_MODEL
from utils.run.settings import TrainSettings

SHOWN = (  # by the folder's name or a line
    *("model", "dataset", "epochs", "batch_size", "validation", "precision", "trial", "data_root", "results_root"),
    *("quantizer", "bits", "optimizer", "backward", "init_lr", "meta_lr", "phi", "freeze_phi_after", "pretrained", "exp_spec"),
)


def description(run: Run, net: nn.Module, loaders: Loaders, pace: str) -> str:
    """Folder, epochs and device; net and weights; method; data. pace: the time of an epoch and the time left, where known."""
    s = run.settings
    validation = f", {len(loaders.validation.chosen):,} validation" if loaders.validation else ""
    images = f"{len(loaders.train.chosen):,} training{validation} and {len(loaders.test.chosen):,} test images"
    lines = {
        "net": f"{s.model}, {_weights(net, s)}",
        "method": f"{_method(s)}; products in {FLOAT32 if s.precision == TF32 and run.device.type == 'cpu' else s.precision}",
        "data": f"{s.dataset}, {images}, {loaders.train.image_set.num_classes} classes",
        "start": _start(s),
        "also": " ".join(s.flags(_also(s, run.device.type))),
        "time": pace,
    }
    iterations = counted(len(loaders.train), "iteration")
    head = f"{run.path}: {counted(s.epochs, 'epoch')} of {iterations} of {s.batch_size} images on {run.record['device']}"
    return "\n".join([head, *(f"  {name + ':':8}{text}" for name, text in lines.items() if text)])


def _start(settings: Settings) -> str:
    """What the weights begin with; "" for a base model's own training."""
    given = getattr(settings, "pretrained", None)
    if given is None:
        return ""
    if given == NO_BASE_MODEL:
        return "from scratch"
    return f"W of the run {given}" if Path(given).is_dir() else f"base model {given}"


def _also(settings: Settings, device: str) -> list[str]:
    """The settings that no other line shows, that are not as usual, and that have an effect on the device ("cpu" or "cuda")."""
    present = [name for name in SHOWN if name in settings_of(type(settings))]
    return [name for name in settings.unusual(present) if name not in (*MAY_DIFFER, *(CUDA_ONLY if device == "cpu" else ()))]


def _weights(net: nn.Module, settings: Settings) -> str:
    parameters = f"{sum(p.numel() for p in net.parameters()):,} parameters"
    if not isinstance(settings, TrainSettings):
        return f"{parameters} in full precision"
    return f"{parameters}, of which {sum(net.meta.layout.sizes):,} weights are quantized to {counted(settings.bits, 'bit')}"


def _method(settings: Settings) -> str:
    rates = f"alpha = {settings.init_lr:g}"
    if not isinstance(settings, TrainSettings):
        return f"{settings.optimizer}, {rates}"
    rates += f", gamma = {settings.meta_lr:g}" if settings.meta_lr is not None else ""
    method = f"quantizer {settings.quantizer}, optimizer {settings.optimizer}, backward {settings.backward}; {rates}"
    return method + (f"; {phi}" if (phi := _phi(settings)) else "")


def _phi(settings: TrainSettings) -> str:
    """Where M begins and how long it is trained, where that is not as usual; else ""."""
    after = settings.freeze_phi_after
    origin = [f"of {settings.phi}"] if settings.phi else []
    frozen = [] if after is None else [f"frozen after {counted(after, 'epoch')}" if after else "frozen"]
    return " ".join(["phi", *origin, *frozen]) if origin or frozen else ""
