"""Generators of records, CSV files and manifests that nobody should believe; each is named by its file or folder."""

import csv
import json
import lzma
import os
import random
from io import StringIO

from run_folders import DIGITS, layer_rows, settings_of

from utils.logs import layers_csv

INF = "<1e999>"  # becomes a number that JSON can write and no float can hold
LONG = "x" * 100_000
NOT_A_TEXT = (True, 3, [], {}, ["a"], INF)
NOT_A_NAME = (*NOT_A_TEXT, "", LONG, "\ud800", "a\x1b[31m", "two\nlines")
NOT_WHOLE = (True, -1, 1.5, 10**30, "3", "\ud800", [], {}, [3], INF)
NOT_A_NUMBER = (True, "3", [], {}, INF, -(10**400))
NOT_AN_OBJECT = (None, 3, "x", [], [{}])
WRONG = {  # field -> values that it cannot have
    "state": (None, *NOT_A_NAME),
    "settings": NOT_AN_OBJECT,
    "epochs_done": (None, *NOT_WHOLE),
    "iterations_done": (None, *NOT_WHOLE),
    "iterations_per_epoch": (None, 0, *NOT_WHOLE),
    "seconds": (None, *NOT_A_NUMBER),
    "seconds_per_epoch": (None, 3, "3", {}, ["3"], [None], [[1]], [INF]),
    "peak_memory": (*NOT_AN_OBJECT, {"cpu_rss": "3"}, {"cpu_rss": INF}),
    "result": (*NOT_AN_OBJECT, {"top1": "3"}, {"best_top1": []}),
    "started": (None, *NOT_A_TEXT),
    "ended": (None, *NOT_A_TEXT),
    "device": (None, *NOT_A_TEXT),
    "error": NOT_A_TEXT,
    "base_model": (*NOT_A_TEXT, LONG),
    "versions": (*NOT_AN_OBJECT, {"torch": 2}, {"torch": []}),
    "git": (3, "x", [], {"commit": 3}, {"commit": None}, {"dirty": "no"}),
    "sessions": (None, 3, {}, "x", [3], [None], [[]], [{"git": 3}], [{"versions": []}], [{"device": 3}]),
    "anything": (INF, [[INF]]),
    **{f"settings.{name}": NOT_A_NAME for name in ("quantizer", "update_order")},
    **{f"settings.{name}": (None, *NOT_A_NAME) for name in ("model", "backward", "optimizer")},
    **{f"settings.{name}": (None, *NOT_A_TEXT) for name in ("dataset",)},
    **{f"settings.{name}": NOT_A_TEXT for name in ("pretrained", "data_root")},
    **{f"settings.{name}": NOT_WHOLE[:1] + NOT_WHOLE[2:] for name in ("seed", "epochs", "bits", "hidden_size", "num_fc")},
    "settings.trial": (None, *NOT_WHOLE[:1], *NOT_WHOLE[2:]),
    **{f"settings.{name}": NOT_A_NUMBER for name in ("weight_decay", "meta_lr")},
    "settings.drop_last": (1, "yes", [], {}, INF),
    "settings.of_another_program": ({}, [[]], [{}], INF, [INF], LONG),
    f"settings.{LONG}": (1,),
    "settings.": (1,),
}


def record_text(changes=()):
    """A whole record as JSON, with values in the place of some fields ("settings.trial": a setting's)."""
    record = {"state": "done", "settings": settings_of(DIGITS), "epochs_done": 12, "iterations_per_epoch": 3}
    for field, value in changes:
        whole, _, setting = field.partition(".")
        if field.startswith("settings."):
            record["settings"][setting] = value
        else:
            record[whole] = value
    return json.dumps(record).replace(f'"{INF}"', "1e999")


def hostile_records(seed=0):
    """(name, a function that makes run.json at a path); a run's folder holds one of them beside whole logs."""
    chance, texts = random.Random(seed), []
    for field, values in WRONG.items():
        texts += [record_text([(field, value)]).encode() for value in values]
    whole = record_text().encode()
    texts += [whole[: chance.randrange(len(whole))] for _ in range(30)]
    texts += [json.dumps(value).encode() for value in ([], 3, "x", None, True, {})]
    texts += [b"", b" \n", b"\0" * 50, b"\xff" + whole, whole.decode().encode("utf-16"), whole + whole, whole + b"]"]
    for depth in (50, 400, 990, 100_000):
        for left, right in (("[", "]"), ('{"a":', "}")):
            deep = left * depth + "1" * (left != "[") + right * depth
            texts += [deep.encode(), whole[:-1] + f', "more": {deep}}}'.encode()]
            texts += [record_text().replace('"settings": {', f'"settings": {{"more": {deep}, ').encode()]
    texts += [whole.replace(b'"settings": {', b'"settings": {"bits": 1, "bits": 2, '), whole[:-1] + b', "state": "done"}']
    texts += [whole.replace(b'"trial": 1', b'"trial": ' + b"1" * 5000), b'{"settings": {}, "state": "done"}']
    makers = [lambda path, text=text: path.write_bytes(text) for text in texts]
    makers += [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to(path.parent),
        lambda path: path.open("wb").truncate(1 << 40),
    ]
    return [(f"record-{number:03}", make) for number, make in enumerate(makers)]


HEAD = "model,dataset,quantizer,backward,optimizer,trial,epoch,test_acc,train_loss,train_acc,seconds,settings,made_by,state"
ROW = ["ResNet20", "Digits", "dorefa", "STE", "SGD", "1", "1", "50", "1", "40", "2", "", "cpu", "done"]
NO_NUMBER = ("", "high", "1e999", "-inf", "0x10")
NO_PERCENTAGE = (*NO_NUMBER, "5500", "-1")
NO_WHOLE = ("", "x", "1.5", "1e2", "nan", "9" * 30, "9" * 5000, "-1", "1e999")
NO_NAME = ("", LONG, "a\x1bb", "\x9b31m", "\u202ea")
DEEP = f'{{"more":{"[" * 900}{"]" * 900}}}'
TWICE = '{"bits":1,"bits":2}'
NO_SETTINGS = ("[", "3", "[]", "{", TWICE, '{"trial":"one"}', '{"model":{}}', '{"meta_lr":1e999}', "[" * 100_000, DEEP)
WRONG_FIELDS = {
    **dict.fromkeys(("model", "dataset", "quantizer", "backward", "optimizer"), NO_NAME),
    **dict.fromkeys(("trial", "epoch"), NO_WHOLE),
    **dict.fromkeys(("test_acc", "train_acc"), NO_PERCENTAGE),
    "train_loss": NO_NUMBER,
    "seconds": ("fast", "inf", "nan", "1e999"),
    "settings": NO_SETTINGS,
    "state": ("\x1b", LONG),
}


def csv_text(column=None, value=None):
    """A whole CSV file, with a value in the place of one."""
    names = HEAD.split(",")
    row = [value if name == column else field for name, field in zip(names, ROW, strict=True)]
    quoted = [f'"{field.replace(chr(34), chr(34) * 2)}"' if set(field) & set(',"\n\r') else field for field in row]
    return "\n".join([HEAD, ",".join(quoted), ""])


def hostile_csv_files(seed=0):
    """(name, a function that makes a CSV file at a path); a name that ends in .xz is of a compressed one."""
    chance, texts = random.Random(seed), []
    for column, values in WRONG_FIELDS.items():
        texts += [csv_text(column, value).encode() for value in values]
    whole = csv_text().encode()
    names = HEAD.split(",")
    texts += [whole.replace(name.encode(), b"other", 1) for name in names[:10]]
    texts += [whole.replace(b",", b";").replace(b"epoch", b"step"), b"\xef\xbb\xbf" + whole.replace(b"model", b"net")]
    texts += [b"", b"\n", b" ", b"\xef\xbb\xbf", f"{HEAD}\n".encode(), b"\0" * 20, whole + b"\0", whole.decode().encode("utf-16")]
    texts += [whole.replace(b"quantizer", b"model"), whole.replace(b"Digits", b'"Digits'), whole.replace(b"STE,", b"")]
    texts += [b"," * 100, whole.replace(b"done", b"done,more,and more"), whole.replace(b",1,1,", b",1,2,")]
    texts += [bytes(chance.randrange(256) for _ in range(chance.randrange(1, 2000))) for _ in range(10)]
    compressed = lzma.compress(whole)
    packed = [compressed[: chance.randrange(len(compressed))] for _ in range(8)] + [whole, b"", compressed[:20] + b"\xff" * 40]
    makers = [(".csv", lambda path, text=text: path.write_bytes(text)) for text in texts]
    makers += [(".csv.xz", lambda path, text=text: path.write_bytes(text)) for text in packed]
    makers += [
        (".csv", lambda path: path.mkdir()),
        (".csv", lambda path: os.mkfifo(path)),
        (".csv", lambda path: path.symlink_to("/dev/zero")),
        (".csv", lambda path: path.symlink_to("nothing")),
        (".csv", lambda path: path.symlink_to(path)),
        (".csv", lambda path: path.open("wb").truncate(1 << 40)),
    ]
    return [(f"runs-{number:03}{suffix}", make) for number, (suffix, make) in enumerate(makers)]


NO_COUNT_AT_ALL = ("", "0", "-1", "1.5", "x", "1e2", "\u0661", "9" * 30, "9" * 5000, "nan")
NO_SHARE = ("nan", "inf", "1e999", "-0.1", "1.1", "5500", "high", "0x1", " 0.1", "1" * 100_000)
NOT_POSITIVE = ("nan", "inf", "-inf", "1e999", "-1e-9", "x", "1_0", "\u0661")
WRONG_OF_LAYERS = {
    "epoch": NO_COUNT_AT_ALL,
    "layer": ("", "a\x1b[31m", "\x9b31m", "\u202ea", "two\nlines", LONG),
    "weights": NO_COUNT_AT_ALL,
    **dict.fromkeys(("flipped", "flipped_since_start", "oscillating"), NO_SHARE),
    **dict.fromkeys(("distance", "norm"), NOT_POSITIVE),
    "cosine": ("nan", "inf", "-1.1", "1.001", "1e999", "x"),
}


def hostile_layers(epochs, seed=0):
    """(name, a function that makes layers.csv at a path) for a run that is done after so many epochs, 3 at least."""
    chance, whole = random.Random(seed), layers_csv.HEADER + layers_csv.csv_text(layer_rows(epochs))
    head, *lines = whole.splitlines(keepends=True)
    texts = []
    for column, values in WRONG_OF_LAYERS.items():
        for value in values:
            rows = list(csv.reader(lines))
            rows[-2][head.strip().split(",").index(column)] = value
            file = StringIO()
            csv.writer(file, lineterminator="\n").writerows(rows)
            texts.append(head + file.getvalue())
    texts += [whole.replace(name, "other", 1) for name in head.strip().split(",")]
    texts += [head.replace(",norm", "") + "".join(lines), head.strip() + ",more\n" + "".join(lines), "".join(lines)]
    texts += ["", "\n", " ", ",,,,,,,,\n", "\ufeff" + whole, whole.replace(",", ";"), whole.replace("\n", "\r"), whole + "\0"]
    texts += [whole[:-1], whole[:-9], head + "".join(lines[:-1]), head + "".join(lines[1:]), head + "".join(lines[3:6])]
    texts += [head + "".join(reversed(lines)), head + "".join(lines[3:] + lines[:3]), whole + lines[-1], whole + "".join(lines)]
    texts += [whole.replace("2,fc", "2,fc2"), whole.replace("2,fc,640", "2,fc,641"), whole.replace("fc", "conv1")]
    texts += [whole.replace("\n3,", "\n2,"), whole + layers_csv.csv_text(layer_rows(epochs + 1, epochs + 1)), whole + "1,2\n"]
    texts += [whole.replace("fc", '"fc', 1), whole.replace("fc", '"fc\n"'), head + "\n" + "".join(lines), whole + "\n"]
    datas = [text.encode() for text in texts] + [whole.encode("utf-16"), b"\xff" + whole.encode(), b"\x89PNG\r\n\x1a\n\0\0"]
    datas += [bytes(chance.randrange(256) for _ in range(chance.randrange(1, 2000))) for _ in range(10)]
    makers = [lambda path, data=data: path.write_bytes(data) for data in datas]
    makers += [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to(path),
        lambda path: path.open("wb").truncate(1 << 40),
        lambda path: path.write_bytes((head + lines[0] * 20_000).encode()),
    ]
    return [(f"layers-{number:03}", make) for number, make in enumerate(makers)]


MANIFEST = """
trials = 2
[settings]
epochs = 3
[[rules]]
why = "a reason"
when = { backward = "STE" }
set = { lr-adjust = 7 }
[tables.one]
dataset = "Digits"
cells = [
  { model = "ResNet20", quantizer = "dorefa", backward = "STE", optimizer = "SGD", published = "1.000 (2.000)" },
]
"""
NO_VALUE = ("[]", "{}", "[[1]]", "1e999", "nan", "1979-05-27", f"0x{'f' * 5000}", '"\\u001b[31m"', f'"{LONG}"')
NO_TEXT = ("3", "true", "[]", "{}", "[3]", "inf", "1979-05-27", '"\\u001b[31m"', '"two\\nlines"')
NO_COUNT = ("0", "-1", "true", "1.5", '"3"', "[]", "1000000", "1_000_000_000_000", f"0x{'f' * 5000}", "inf")
WRONG_KEYS = ("model=ResNet56", "results_root", "init_lr", "Epochs", "", " ", "\\u001b[31m", "-", "trial", "overwrite", LONG)


MANIFEST_VALUES = (  # what stands before a value, the value, values that it cannot have
    ("trials = ", "2", NO_COUNT),
    ("epochs = ", "3", NO_VALUE),
    ("lr-adjust = ", "7", NO_VALUE),
    ("when = { backward = ", '"STE"', ("3", "true", "{}", "[]", '"LSTMFC"')),
    ("why = ", '"a reason"', NO_TEXT),
    ("dataset = ", '"Digits"', NO_TEXT),
    ("model = ", '"ResNet20"', NO_TEXT),
    ("published = ", '"1.000 (2.000)"', NO_TEXT),
)


def hostile_manifests(seed=0):
    """(name, a function that makes a manifest at a path)."""
    chance, texts = random.Random(seed), []
    for place, good, values in MANIFEST_VALUES:
        assert place + good in MANIFEST
        texts += [MANIFEST.replace(place + good, place + value) for value in values]
    texts += [MANIFEST.replace("epochs =", f'"{key}" =') for key in WRONG_KEYS]
    texts += [MANIFEST.replace("lr-adjust =", f'"{key}" =') for key in WRONG_KEYS]
    texts += [MANIFEST.replace("[tables.one]", f"[{name}]") for name in ("tables.all", "tables", "table.one", "tables.one.two")]
    texts += [
        MANIFEST.partition("cells")[0] + "cells = []",
        "",
        "[tables]",
        "tables = 3",
        "tables = []",
        MANIFEST * 2,
        "\0",
        "\ufeff[",
    ]
    texts += [f"a = {'[' * depth}{']' * depth}\n{MANIFEST}" for depth in (50, 300, 5000)]
    texts += [MANIFEST.replace("3\n", f"{'{a=' * depth}1{'}' * depth}\n") for depth in (50, 5000)]
    texts += ["#" * (2 << 20), MANIFEST[: chance.randrange(40, 200)] + "="]
    makers = [lambda path, text=text: path.write_text(text) for text in texts]
    makers += [
        lambda path: path.write_bytes(b"\xff\xfe" + MANIFEST.encode("utf-16-le")),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to(path),
    ]
    return [(f"manifest-{number:03}.toml", make) for number, make in enumerate(makers)]


ESCAPES = (
    "\x1b[31m",
    "\x1b[2J\x1b[H",
    "\x1b[6n",
    "\x1b[?1049h",
    "\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x07",
    "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x9b31m",
    "\x9d0;title\x9c",
    "\r" + " " * 20,
    "\b\b\b",
    "\x07",
    "\x0e",
    "\x7f",
    "\x00",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u2028",
    "\x85",
    "\ud800",
)


def raw_characters(text):
    """The characters of a text that a terminal obeys or hides."""
    return {character for character in text if not character.isprintable() and character != "\n"}
