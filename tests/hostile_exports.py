"""Generators of exported files that nobody should believe: damaged, or forged with a digest that fits."""

import json
import os
import random

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from utils.run.exported.about import export_digest

MANY = 10**12


class Forgery:
    """A packed file whose metadata and tensors can be changed; its digest is then made to fit."""

    def __init__(self, path):
        with safe_open(path, "np") as file:
            self.about = {name: json.loads(text) for name, text in file.metadata().items()}
            self.arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)

    def content(self, **texts):
        """The file's bytes; texts: metadata as they are, JSON or not."""
        texts = {name: json.dumps(value) for name, value in self.about.items()} | texts
        texts["sha256"] = json.dumps(export_digest(texts, sorted(self.arrays.items())))
        return save({name: np.asarray(array, order="C") for name, array in self.arrays.items()}, texts)


def _set(name, value):
    def change(forgery):
        forgery.about[name] = value

    return change


def _drop(name):
    return lambda forgery: forgery.about.pop(name)


def _array(name, make):
    def change(forgery):
        forgery.arrays[name] = make(forgery.arrays[name])

    return change


def _layer(name, **values):
    return lambda forgery: forgery.about["layers"][name].update(values)


def _level(value):
    def change(levels):
        levels = levels.copy()
        levels.flat[0] = value
        return levels

    return change


def _rename(old, new):
    def change(forgery):
        forgery.arrays[new] = forgery.arrays.pop(old)

    return change


def _move_layer(old, new):
    def change(forgery):
        forgery.about["layers"][new] = forgery.about["layers"].pop(old)
        for part in (".codes", ".levels"):
            forgery.arrays[new + part] = forgery.arrays.pop(old + part)

    return change


FC, CONV, BN = "fc.weight", "conv1.weight", "bn1.running_var"
FORGED = {  # what is changed, words of the line
    "another format": (_set("format", "other"), "not an export of this program"),
    "another version": (_set("format_version", 2), "of format version 2, and this program reads version 1"),
    "a version that is true": (_set("format_version", True), "format version True"),
    "no version": (_drop("format_version"), "format version None"),
    "no quantizer": (_drop("quantizer"), "lacks 'quantizer'"),
    "one more field": (_set("more", 1), "has an unknown 'more'"),
    "a text for a number": (_set("num_classes", "2"), "its num_classes must be"),
    "a huge number of classes": (_set("num_classes", MANY), f"of a net for {MANY} classes, and the data set has 2"),
    "a number beyond all": (_set("num_classes", 10**4000), "its num_classes must be"),
    "an unknown net": (_set("architecture", "ResNet21"), "ResNet21 is a net that this program does not know"),
    "a net that takes larger images": (_set("architecture", "torchvision:alexnet"), "in this net"),
    "a net that cannot be made": (_set("architecture", "torchvision:vit_h_14"), "this net cannot be made for 32x32 images"),
    "a path for a net": (_set("architecture", "torchvision:../../up"), "does not know"),
    "another net": (_set("architecture", "ResNet32"), "in this net"),
    "a huge net": (_set("architecture", "torchvision:wide_resnet101_2"), "in this net"),
    "an unknown classifier": (_set("architecture", "torchvision:resnet19"), "has no classifier of this name"),
    "a net with an escape sequence": (_set("architecture", "\x1b[31mred"), "its architecture must be"),
    "a layer kept": (_set("keep", ["fc"]), "fc.weight"),
    "a pattern that matches nothing": (_set("keep", ["nothing"]), "'nothing' matches no layer"),
    "everything kept": (_set("keep", ["*"]), "keep leaves no layer"),
    "patterns that are none": (_set("keep", [3]), "its keep must be"),
    "a million patterns": (_set("keep", ["a"] * 1_000_000), "its keep must be"),
    "larger images": (_set("image_size", [3, 10**6, 10**6]), "its image_size must be [3, 32, 32]"),
    "bits": (_set("bits", 9), "its bits must be"),
    "no accuracy": (_set("test", {}), "its test must be"),
    "another data set": (_set("dataset", "MNIST"), "its dataset must be"),
    "a data set that is a device": (_set("dataset", "NPZ:/dev/zero"), "/dev/zero"),
    "other data": (_set("contents", {"data_digest": "0" * 64}), "was trained on data other than"),
    "layers that are none": (_set("layers", [1]), "its layers must be"),
    "no layers": (_set("layers", {}), "conv1.weight is a quantized weight in this net, but"),
    "a layer without a shape": (_layer(FC, shape=None), "its layers must be"),
    "a layer of 10**12 rows": (_layer(FC, shape=[MANY, 64], view=[MANY, 64]), f"not {64 * MANY} codes of 1 bits as bytes"),
    "a layer of 10**60 numbers": (_layer(FC, shape=[MANY] * 5, view=[MANY] * 5), "codes of 1 bits as bytes"),
    "a layer of other axes": (_layer(FC, shape=[128], view=[128]), "fc.weight"),
    "a layer turned around": (_layer(FC, shape=[64, 2], view=[64, 2]), "fc.weight has shape (64, 2), not (2, 64)"),
    "another view": (_layer(FC, view=[64, 2]), "fc.weight has levels of shape"),
    "another product": (_layer(FC, view=[2, 63]), "its layers must be"),
    "16 bits": (_layer(FC, bits=16), "its layers must be"),
    "2 bits": (_layer(FC, bits=2), "not 128 codes of 2 bits"),
    "no bits": (_layer(FC, bits=0), "its layers must be"),
    "a layer more": (lambda f: f.about["layers"].update(more=f.about["layers"][FC]), "it lacks more.codes"),
    "a layer less": (lambda f: f.about["layers"].pop(FC), "fc.weight is a quantized weight in this net, but"),
    "tied to nothing": (_set("tied", {"fc2.weight": FC}), "fc2.weight is another name"),
    "tied to itself": (_set("tied", {FC: FC}), "fc.weight is another name"),
    "codes of floats": (_array(FC + ".codes", lambda a: a.astype(np.float32)), "fc.weight.codes are float32"),
    "fewer codes": (_array(FC + ".codes", lambda a: a[:-1]), "not 128 codes of 1 bits"),
    "more codes": (_array(FC + ".codes", lambda a: np.resize(a, 100_000)), "not 128 codes of 1 bits"),
    "codes in two axes": (_array(FC + ".codes", lambda a: a.reshape(2, -1)), "not 128 codes of 1 bits"),
    "codes beyond their levels": (_array(FC + ".levels", lambda a: a[..., :1]), "fc.weight: code 1 is beyond its 1 levels"),
    "no levels": (_array(FC + ".levels", lambda a: a[..., :0]), "not up to 2 levels in float32"),
    "300 levels": (_array(FC + ".levels", lambda a: np.resize(a, (1, 1, 300))), "not up to 2 levels in float32"),
    "levels in float64": (_array(FC + ".levels", lambda a: a.astype(np.float64)), "not up to 2 levels in float32"),
    "levels of another axis": (_array(FC + ".levels", lambda a: np.resize(a, (1, 64, 2))), "has levels of shape"),
    "levels for each weight": (_array(FC + ".levels", lambda a: np.resize(a, (2, 64, 2))), "has levels of shape"),
    "levels without axes": (_array(FC + ".levels", lambda a: a.ravel()), "not up to 2 levels in float32"),
    "a level NaN": (_array(FC + ".levels", _level(np.nan)), "fc.weight.levels are not finite"),
    "a level infinite": (_array(CONV + ".levels", _level(np.inf)), "conv1.weight.levels are not finite"),
    "a bias NaN": (_array("fc.bias", _level(np.nan)), "fc.bias has values that are not finite"),
    "a negative variance": (_array(BN, _level(-1)), "bn1.running_var has negative values"),
    "a bias of other shape": (_array("fc.bias", lambda a: np.resize(a, 3)), "fc.bias has shape (3,), not (2,)"),
    "a bias in float64": (_array("fc.bias", lambda a: a.astype(np.float64)), "fc.bias is float64, not float32"),
    "a bias in float16": (_array("fc.bias", lambda a: a.astype(np.float16)), "fc.bias is F16, which no export has"),
    "a counter in float32": (_array("bn1.num_batches_tracked", lambda a: a.astype(np.float32)), "is float32, not int64"),
    "a bias of another name": (_rename("fc.bias", "fc.b"), "fc.b"),
    "a bias as large as a net": (_array("fc.bias", lambda a: np.resize(a, 1_000_000)), "fc.bias has shape (1000000,)"),
    "a layer of another name": (_move_layer(FC, "classifier.weight"), "classifier.weight is a quantized"),
    "names with escape sequences": (_rename("fc.bias", "\x1b[31m"), "\\x1b[31m is in full"),
    "a name of 100,000 letters": (_rename("fc.bias", "x" * 100_000), "fc.bias is in full precision in this net, but"),
    "codes without a layer": (lambda f: f.arrays.update({"more.codes": np.zeros(3, np.uint8)}), "more.codes is in full"),
}
NOT_JSON = ("", "{", "nan", "NaN", "Infinity", "'x'", "[1,]", '{"a":1,"a":2}', "[" * 100_000, '"\ud7ff', "1e", "\0", "3 4")


def forged_files(path):
    """(case, content, words) for a packed file of ResNet8 for two classes."""
    for case, (change, words) in FORGED.items():
        forgery = Forgery(path)
        change(forgery)
        yield case, forgery.content(), words
    for number, text in enumerate(NOT_JSON):
        name = ("keep", "layers", "test", "contents")[number % 4]
        yield f"{name} is {text[:20]!r}", Forgery(path).content(**{name: text}), f"its metadata '{name}' is not JSON"


def _rebuilt(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def damaged_files(path, seed=0):
    """(case, a function that makes a file at a path): packed files that safetensors, or the digest, must refuse."""
    chance, whole = random.Random(seed), path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    contents = {f"cut at {place}": whole[:place] for place in sorted(chance.randrange(len(whole)) for _ in range(40))}
    for place in sorted(chance.randrange(8 * len(whole)) for _ in range(60)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        contents[f"bit {place} flipped"] = bytes(flipped)
    for claim in (0, 1, size - 1, size + 1, len(whole), 10**8, 10**10, 2**63, 2**64 - 1):
        contents[f"header of {claim}"] = claim.to_bytes(8, "little") + whole[8:]

    def edited(case, **changes):
        tensors = {name: {**entry, **changes} if name == "fc.bias" else entry for name, entry in header.items()}
        contents[case] = _rebuilt(tensors, data)

    begin, end = header["fc.bias"]["data_offsets"]
    edited("offsets beyond the file", data_offsets=[begin, end + 10**10])
    edited("offsets that overlap", data_offsets=[begin - 8, end - 8])
    edited("offsets turned around", data_offsets=[end, begin])
    edited("negative offsets", data_offsets=[-8, 0])
    edited("offsets of nothing", data_offsets=[begin, begin])
    edited("a shape beyond its bytes", shape=[10**10])
    edited("a shape that overflows", shape=[2**32, 2**32, 2**32])
    edited("a negative shape", shape=[-2])
    edited("an unknown dtype", dtype="F3")
    edited("a dtype of other size", dtype="F64")
    text = json.dumps(header)
    contents["a tensor named twice"] = _rebuilt(
        text.replace('"fc.bias"', '"fc.bias": {"dtype": "F32"}, "fc.bias"').encode(), data
    )
    contents["two tensors in one place"] = _rebuilt(header | {"again": header["fc.bias"]}, data)
    contents["a hole"] = _rebuilt({name: entry for name, entry in header.items() if name != "fc.bias"}, data)
    contents["bytes behind"] = whole + b"\0" * 8
    contents["no metadata"] = _rebuilt({name: entry for name, entry in header.items() if name != "__metadata__"}, data)
    contents["metadata that are no texts"] = _rebuilt(header | {"__metadata__": {"format": 3}}, data)
    contents["metadata that are a list"] = _rebuilt(header | {"__metadata__": []}, data)
    contents |= {f"header {text[:10]!r}": _rebuilt(text, data) for text in (b"", b"[]", b"{}", b"null", b"{", b"\xff\xfe{}")}
    contents["a header nested deep"] = _rebuilt(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, data)
    contents |= {"empty": b"", "seven bytes": b"\0" * 7, "zeros": b"\0" * 1000, "a zip file": b"PK\x03\x04" + b"\0" * 100}
    contents["100,000 empty tensors"] = _rebuilt(
        {f"{n:x}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}, b""
    )
    for case, content in contents.items():
        yield case, lambda path, content=content: path.write_bytes(content)
    yield "a folder", lambda path: path.mkdir()
    yield "a FIFO", lambda path: os.mkfifo(path)
    yield "a link to /dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "a link to nothing", lambda path: path.symlink_to("nothing")
    yield "a link to itself", lambda path: path.symlink_to(path)
    yield "a terabyte of nothing", lambda path: path.open("wb").truncate(1 << 40)
