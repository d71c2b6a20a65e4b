"""What a run says at its start and shows on its way: on a terminal, and elsewhere."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
import tty

import pytest
import torch

from main import main
from utils.choices import MODELS

EPOCH = r"epoch {}: loss [\d.]+, train accuracy [\d.]+ %, test accuracy [\d.]+ % \(best [\d.]+ %\), [\d.]+ s per epoch"


class Terminal:
    """A pseudo-terminal of so many columns; what is written to `file` is collected as it came."""

    def __init__(self, columns):
        self._master, slave = pty.openpty()
        tty.setraw(slave)  # so that no carriage return is added to a line's end
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.file, self._written = os.fdopen(slave, "w", encoding="utf-8"), []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:  # the other side is closed
                return
            self._written.append(data)

    def close(self):
        """Everything that was written."""
        self.file.close()
        self._reader.join()
        os.close(self._master)
        return b"".join(self._written).decode()


def screen(written):
    """The lines that a terminal shows of a text with carriage returns."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines[:-1] if lines[-1] == "" else lines


@pytest.fixture
def command(tiny_set, tmp_path):
    """A run of 2 epochs of 4 iterations."""
    flags = ["-m", "ResNet8", "-d", tiny_set, "-n", "2", "-bs", "2", "--pretrained", "none"]
    return ["train", *flags, "--results-root", str(tmp_path / "R")]


@pytest.fixture
def on_terminal(monkeypatch):
    """on_terminal(argv, columns): runs main.py with both streams on a terminal, every iteration drawn; returns what it wrote."""
    monkeypatch.setattr("utils.recorder.REDRAW_SECONDS", 0.0)
    monkeypatch.setattr("utils.recorder.PLAIN_LINE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(argv, columns=100):
        terminal = Terminal(columns)
        monkeypatch.setattr(sys, "stdout", terminal.file)
        monkeypatch.setattr(sys, "stderr", terminal.file)
        try:
            assert main(argv) == 0
        finally:
            written = terminal.close()
        return written

    return run


def test_a_terminal_shows_one_bar_that_goes_away(command, on_terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    written = on_terminal(command)
    assert "\x1b" not in written
    bars = re.findall(
        r"\r *(\d+)%\|(.*?)\| (\d)/4 epoch (\d)/2 \([\d:]+ left, run [\d:]+\): loss [\d.]+, train [\d.]+ %", written
    )
    assert [(int(percent), int(done), int(epoch)) for percent, _, done, epoch in bars] == [
        (25 * done, done, epoch) for epoch in (1, 2) for done in (1, 2, 3, 4)
    ]
    assert {bar.strip() for _, bar, _, _ in bars[3::4]} <= {"█" * count for count in range(1, 100)}
    head, net, method, data, start, *epochs = screen(written)  # no bar is left on it
    assert head.endswith("trial-1: 2 epochs of 4 iterations of 2 images on cpu: " + head.rpartition("cpu: ")[2])
    assert re.fullmatch(r"  net:    ResNet8, [\d,]+ parameters, of which [\d,]+ weights are quantized to 1 bit", net)
    rates = "alpha = 0.001, gamma = 0.001; products in float32"
    assert method == f"  method: quantizer dorefa, optimizer SGD, backward MultiFC; {rates}"
    assert re.fullmatch(r"  data:   NPZ:.*tiny\.npz, 8 training and 8 test images, 2 classes", data)
    assert start == "  start:  from scratch"
    assert len(epochs) == 2
    assert re.fullmatch(EPOCH.format(1) + r", 00:0\d left", epochs[0])
    assert re.fullmatch(EPOCH.format(2), epochs[1])


@pytest.mark.parametrize("columns", [20, 60])
def test_a_bar_fits_into_a_narrow_terminal(columns, command, on_terminal):
    written = on_terminal(command, columns)
    drawn = [part for part in re.split(r"[\r\n]", written) if re.match(r" *\d+%\|", part)]
    assert len(drawn) == 8
    assert all(len(part) < columns for part in drawn)


def test_a_terminal_that_cannot_redraw_gets_lines(command, on_terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    written = on_terminal(command)
    assert not {"\r", "\x1b"} & set(written)
    assert len(re.findall(r"^\d/4 epoch \d/2 \([\d:]+ left, run [\d:]+\): loss ", written, flags=re.MULTILINE)) == 8


def test_a_pipe_gets_lines(command, call_main, monkeypatch):
    monkeypatch.setattr("utils.recorder.PLAIN_LINE_SECONDS", 0.0)
    outcome = call_main(*command)
    assert not {"\r", "\x1b"} & set(outcome.out + outcome.err)
    lines = outcome.err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"{done}/4 epoch {epoch}/2" for epoch in (1, 2) for done in (1, 2, 3, 4)]
    assert len(outcome.out.splitlines()) == 5 + 2


def test_an_interrupted_run_leaves_no_bar_and_says_how_long_the_rest_takes(command, on_terminal):
    *_, last = screen(on_terminal([*command, "--stop-after", "6"]))
    assert last.endswith("stopped after 6 iterations; rerun without --stop-after to continue")
    resumed, _, *_, time, second = screen(on_terminal(command))
    assert resumed.endswith("resumed after 6 iterations")
    assert re.fullmatch(r"  time:   [\d.]+ s per epoch, 00:0\d left", time)
    assert re.fullmatch(EPOCH.format(2), second)


def test_the_weights_that_are_kept_are_not_counted_as_quantized(command, call_main):
    outcome = call_main(*command, "-bw", "2", "--keep", "conv1", "--stop-after", "1")
    net = MODELS.load("ResNet8")(num_classes=2)
    weights = sum(p.numel() for name, p in net.named_parameters() if p.dim() > 1 and name != "conv1.weight")
    all_of_it = sum(p.numel() for p in net.parameters())
    assert f"ResNet8, {all_of_it:,} parameters, of which {weights:,} weights are quantized to 2 bits\n" in outcome.out


def test_a_base_models_run_is_described(call_main, tiny_set, tmp_path):
    outcome = call_main("pretrain", "-m", "ResNet8", "-d", tiny_set, "-n", 1, "-bs", 8, "--results-root", tmp_path)
    assert outcome.code == 0, outcome.err
    _, net, method, *_ = outcome.out.splitlines()
    assert re.fullmatch(r"  net:    ResNet8, [\d,]+ parameters in full precision", net)
    assert method == "  method: SGD-M, alpha = 0.1; products in float32"


def test_a_run_says_what_is_not_as_usual(command, call_main, tmp_path):
    unusual = ["--lr-adjust", "cosine", "--warmup", "1", "--label-smoothing", "0.1", "--clip", "2", "--keep", "conv1"]
    lines = call_main(
        *command, *unusual, "--checkpoint-every", "1it", "--meta-init", "identity", "-meta", "FC-Grad"
    ).out.splitlines()
    (also,) = [line for line in lines if line.startswith("  also:")]
    flags = ["--lr-adjust", "cosine", "--warmup", "1", "--meta-init", "identity", "--label-smoothing", "0.1", "--clip", "2.0"]
    assert also.split() == ["also:", *flags, "--keep", "conv1"]


def test_what_a_run_starts_from_is_said(command, call_main, tmp_path):
    assert call_main(*command).code == 0
    (run,) = (tmp_path / "R").glob("*/runs-Quant/*")
    weights = tmp_path / "base.pth"
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), weights)
    for given, words in ((run, f"W of the run {run}"), (weights, f"base model {weights}")):
        lines = call_main(*command, "--pretrained", given, "-e", given.stem[:4]).out.splitlines()
        assert f"  start:  {words}" in lines


def test_stopping_where_the_run_ends_changes_nothing(command, call_main, tmp_path):
    outcome = call_main(*command, "--stop-after", 8)
    assert (outcome.code, "stopped" in outcome.out + outcome.err) == (0, False)
    (record,) = (tmp_path / "R").glob("*/runs-Quant/*/run.json")
    assert json.loads(record.read_text())["state"] == "done"
