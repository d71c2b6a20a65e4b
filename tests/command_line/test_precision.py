"""--precision from the command line: trained, resumed, evaluated and exported; one note where bf16 is slow."""

import json
import re

import pytest
import torch
from resumed import only_run, outcome

from utils.batches import Loader
from utils.environment import choose_device, lacks_bf16
from utils.run.build import build_loop, load_data
from utils.run.evaluation import find_trained
from utils.run.settings import TrainSettings

CPU = torch.device("cpu")
EVALUATED = re.compile(r"top-1 ([\d.]+) %  top-5 ([\d.]+) %  loss ([\d.]+)")
NOTE = "note: this processor has no bf16 instructions: bf16 is slower here than float32"


@pytest.fixture(scope="module")
def where(tiny_set):
    return ["-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "2", "-lr", "0.05"]


@pytest.fixture
def trained(call_main, where, tmp_path):
    """trained(root, *flags): a run of two epochs of two iterations, and what its command printed."""

    def run(root, *flags):
        printed = call_main("train", *where, "--pretrained", "none", "--results-root", tmp_path / root, *flags)
        assert printed.code == 0, printed.err
        return only_run(tmp_path / root), printed

    return run


@pytest.mark.parametrize(
    "flags",
    [["-meta", "LSTMFC", "-hidden", "4"], ["-meta", "FC-Grad", "--update-order", "paper", "-q", "BWN"], ["-meta", "ProxQuant"]],
    ids=lambda flags: flags[1],
)
def test_a_run_in_bf16_is_resumed_to_the_same_bytes(flags, trained, tmp_path, tally):
    flags = [*flags, "--precision", "bf16", "--checkpoint-every", "1it"]
    run, printed = trained("whole", *flags)
    assert printed.err.count(NOTE) == lacks_bf16(CPU)
    assert "; products in bf16\n" in printed.out
    trained("stopped", *flags, "--stop-after", "3")
    trained("stopped", *flags)
    whole, stopped = outcome(run), outcome(tmp_path / "stopped")
    assert whole[0] == stopped[0]
    assert whole[1].keys() == stopped[1].keys()
    assert all(torch.equal(value, stopped[1][name]) for name, value in whole[1].items())
    assert {value.dtype for value in whole[1].values()} <= {torch.float32, torch.int64}
    tally("--stop-after in bf16, then without it")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("tf32", None), ("float32", None)])
def test_lstmfcs_products_are_in_the_runs_precision(precision, dtype, tiny_set):
    settings = TrainSettings(model="ResNet8", dataset=tiny_set, backward="LSTMFC", hidden_size=2, precision=precision)
    loop = build_loop(settings, load_data(settings, 0, CPU).train, CPU)
    assert loop.meta_net.product_dtype == dtype


def test_another_precision_is_another_run(trained, call_main, where, tmp_path):
    run, _ = trained("R", "-meta", "STE", "-n", "1")
    before = (run / "run.json").read_bytes()
    command = ["train", *where, "-n", "1", "-meta", "STE", "--pretrained", "none", "--results-root", tmp_path / "R"]
    refused = call_main(*command, "--precision", "bf16")
    assert refused.code == 2
    assert "precision float32 there and bf16 here; choose another --exp-spec, or --overwrite" in refused.err
    assert (run / "run.json").read_bytes() == before
    record = json.loads(before)
    del record["settings"]["precision"]
    (run / "run.json").write_text(json.dumps(record | {"settings": {**record["settings"], "tf32": True}}))
    again = call_main(*command, "--precision", "tf32", "--device", "cpu")
    assert (again.code, again.err) == (0, "note: --precision has no effect on the CPU, where tf32 is float32\n")
    assert "is done" in again.out


def loss_of(printed):
    assert printed.code == 0, printed.err
    return float(EVALUATED.match(printed.out)[3])


def logits(path, precision=None):
    """All logits of a run or file on its test images."""
    one = find_trained(path, None, None, precision)
    loader: Loader = one.load_test_data("")
    net = one.build(loader, CPU).eval()
    with torch.no_grad():
        return torch.cat([net(images, one.quantizer) for images, _ in loader])


def test_a_run_is_evaluated_in_its_own_precision_and_exported_in_float32(trained, call_main, tmp_path):
    run, _ = trained("R", "-meta", "STE", "--precision", "bf16")
    result = json.loads((run / "run.json").read_text())["result"]
    own, exact = call_main("evaluate", run), call_main("evaluate", run, "--precision", "float32")
    assert loss_of(own) == pytest.approx(result["loss"], abs=1e-4)
    assert own.err.count(NOTE) == lacks_bf16(CPU)
    assert loss_of(exact) != loss_of(own)
    assert exact.err == ""
    file = tmp_path / "net.safetensors"
    exported = call_main("export", run, file)
    assert exported.code == 0, exported.err
    note = f"note: {run} was trained in bf16; the file computes in float32, as do both accuracies\n"
    assert exported.err == note
    assert call_main("evaluate", file).out == exact.out
    assert torch.equal(logits(file), logits(run, "float32"))
    assert torch.equal(logits(file, "bf16"), logits(run))
    assert not torch.equal(logits(file), logits(run))
    assert loss_of(call_main("evaluate", file, "--precision", "bf16")) == loss_of(own)


def test_a_base_model_is_trained_and_evaluated_in_bf16(call_main, where, tmp_path):
    made = call_main("pretrain", *where, "-ad", "1", "--results-root", tmp_path, "--precision", "bf16")
    assert made.code == 0, made.err
    assert "; products in bf16\n" in made.out
    (base,) = tmp_path.rglob("*-pretrain.pth")
    result = json.loads((base.parent / "pretrain-trial-1" / "run.json").read_text())["result"]
    losses = [loss_of(call_main("evaluate", base, *where[:4], *flags)) for flags in ([], ["--precision", "bf16"])]
    assert losses[1] == pytest.approx(result["loss"], abs=1e-4) != losses[0]


@pytest.mark.parametrize(("name", "words"), [("fp8", "there is no precision fp8"), (None, "there is no precision None")])
def test_a_precision_that_does_not_exist_is_not_evaluated(name, words, trained, call_main):
    run, _ = trained("R", "-meta", "STE", "-n", "1")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"settings": {**record["settings"], "precision": name}}))
    found = call_main("evaluate", run)
    assert (found.code, len(found.err.splitlines())) == (2, 1)
    assert f"run.json: {words}" in found.err


@pytest.mark.parametrize("command", ["train", "pretrain", "benchmark", "evaluate"])
def test_a_precision_is_one_of_three(command, refuses):
    needed = ["-m", "ResNet20", "-d", "Digits"] if command.endswith("train") else ["."] if command == "evaluate" else []
    refuses([command, *needed, "--precision", "float16"], ["--precision", "'float16'"])


def test_the_processor_says_what_it_can(tmp_path, capfd):
    """By Linux's list of features, on x86 and on Arm; without a list nothing is said."""
    for features, lacks in (
        ("flags\t\t: fpu sse avx2 avx512f avx512bw", True),
        ("flags\t\t: fpu avx512f avx512_bf16", False),
        ("flags\t\t: fpu amx_bf16 amx_tile", False),
        ("Features\t: fp asimd", True),
        ("Features\t: fp asimd i8mm bf16", False),
        ("model name\t: avx512_bf16", False),
    ):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{features}\nbugs\t\t: bf16\n\nprocessor\t: 1\n{features}\n")
        assert lacks_bf16(CPU, tmp_path / "cpuinfo") == lacks, features
    assert not lacks_bf16(CPU, tmp_path / "none")
    for precision in ("float32", "tf32", "bf16"):
        assert choose_device("cpu", precision=precision) == CPU
    assert capfd.readouterr().err == f"{NOTE}\n" * lacks_bf16(CPU)


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this version of torch does not say")
def test_torch_knows_the_same_of_this_processor():
    known = torch.cpu.get_capabilities()
    assert lacks_bf16(CPU) is not any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
