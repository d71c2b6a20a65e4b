"""Seeds and random generators, device, versions, commit and memory of a run."""

import ctypes
import os
import platform
import random
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import PROJECT
from utils.choices import BF16, FLOAT32, TF32
from utils.errors import BadInput
from utils.files.text import counted


def seed_everything(seed: int, trial: int) -> int:
    """Seeds Python, NumPy and torch from (seed, trial); returns the seed of the trial's data order."""
    python, numpy, torch_seed, data = np.random.SeedSequence([seed, trial]).generate_state(4).tolist()
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(torch_seed)
    return data


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators (on CUDA, the current device's), as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Goes back to what `random_states` gave."""
    name, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next tensor instead of handing it back to the kernel page by page.

    Every iteration frees and allocates the same hundreds of megabytes; without this the kernel zeroes their pages each time.
    Returns False, and changes nothing, where the C library has no such setting.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(top_pad, 64 << 20)])


def resolve_device(name: str) -> torch.device:
    """The device that a flag means, whether it is there or not: auto is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_device(name: str, deterministic: bool = False, precision: str = FLOAT32) -> torch.device:
    """The device by its flag; auto is CUDA where there is one, else the CPU. Raises BadInput for a device that is not there.

    deterministic: only algorithms that give the same bits every time; the CPU's are so anyway. precision: of products; a note
    says where the device has no instructions for bf16.
    """
    device = resolve_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # streams, generators and clocks are the current device's
        use_tf32(precision == TF32)
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # the code writes before it reads
        print(
            "note: --deterministic costs speed on CUDA: slower convolution and reduction kernels, no autotuning", file=sys.stderr
        )
    if precision == BF16 and lacks_bf16(device):
        what = "GPU" if device.type == "cuda" else "processor"
        print(f"note: this {what} has no bf16 instructions: bf16 is slower here than float32", file=sys.stderr)
    return device


def use_tf32(wanted: bool) -> None:
    """Whether CUDA rounds the factors of float32 products to 10 bits of mantissa, which is faster."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


def lacks_bf16(device: torch.device, cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether a device is known to have no instructions that multiply bf16 numbers.

    Of a CPU, the kernel knows: x86 has them with AVX512-BF16 or AMX, Arm as an extension. cpuinfo: the file that lists its
    features, on Linux; where there is none nothing is known.
    """
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return False
    features = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return bool(features) and {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features[0])


def product_dtype(precision: str) -> torch.dtype | None:
    """The dtype in which the net and LSTMFC multiply; None: in their tensors' own."""
    return torch.bfloat16 if precision == BF16 else None


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def cpu_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
    }


def describe(device: torch.device) -> str:
    """The device in words, with its name or its number of threads."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}: {platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"


def git_state() -> dict[str, Any] | None:
    """The commit this code is at and whether files differ from it; None outside a repository.

    Data and pictures in figs/, which the programs there write, are no difference: no run depends on them. untracked: how many
    Python files beside main.py and in the project's folders are not in the repository; they count as a difference.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", PROJECT, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != PROJECT:
            return None
        commit, changed = git("rev-parse", "HEAD"), git("diff", "--name-only", "HEAD").splitlines()
        changes = [path for path in changed if not path.startswith("figs/") or path.endswith(".py")]
        folders = git("ls-tree", "-d", "--name-only", "HEAD").splitlines()
        code = [":(glob)*.py", *(f":(glob){folder}/**/*.py" for folder in folders)]
        untracked = git("ls-files", "--others", "--exclude-standard", "--", *code).splitlines()
        return {"commit": commit, "dirty": bool(changes or untracked), "untracked": len(untracked)}
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: the process's largest resident set; the most that CUDA tensors took, and that was reserved, for graphs too."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"cpu_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["cuda"] = torch.cuda.max_memory_allocated(device)
        peak["cuda_reserved"] = torch.cuda.max_memory_reserved(device)
    return peak
