"""NPZ files: what is understood gives the right arrays, what is broken is one line, and neither takes much memory."""

import io
import json
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import PROJECT, write_npz

from utils.dataset import load_images
from utils.errors import BadInput

BROKEN = "damaged, forged or misleading NPZ: refused in one line, or read as it was written"
GOOD = {
    "x_train": np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
    "y_test": np.array([2, 1, 0, 0]),
}


def npy(array, version=None):
    """An array as the bytes of a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version)
    return file.getvalue()


def zipped(members, compression=zipfile.ZIP_STORED):
    """Members (name, bytes) as the bytes of a zip file; a name may be there twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def content(changes=(), compression=zipfile.ZIP_STORED, suffix=".npy"):
    """The bytes of an NPZ file like GOOD; changes: name -> another array or other bytes of the member."""
    arrays = GOOD | dict(changes)
    members = [(name + suffix, value if isinstance(value, bytes) else npy(value)) for name, value in arrays.items()]
    return zipped(members, compression)


def with_header(array, old, new):
    """The bytes of an array whose header has another text in the place of one of the same length."""
    data = npy(array)
    assert (data.count(old), len(new)) == (1, len(old))
    return data.replace(old, new)


def check(path, tally):
    """Loads both splits: True where they are GOOD's, False where one was refused; whatever else happens fails."""
    tally(BROKEN)
    try:
        sets = {split: load_images(f"NPZ:{path}", split) for split in ("train", "test")}
    except BadInput as error:
        (line,) = str(error).splitlines()
    else:
        line = None
    if line:
        assert len(line) < 1000
        assert line.startswith(f"--dataset NPZ:{path}: ")
        return False
    for split, images in sets.items():
        np.testing.assert_array_equal(images.images, GOOD[f"x_{split}"])
        np.testing.assert_array_equal(images.targets, GOOD[f"y_{split}"])
    return True


UNDERSTOOD = {
    "compressed": lambda: content(compression=zipfile.ZIP_DEFLATED),
    "Fortran order": lambda: content({"x_train": np.asfortranarray(GOOD["x_train"])}),
    "big endian labels": lambda: content({"y_train": GOOD["y_train"].astype(">i4")}),
    "unsigned labels": lambda: content({"y_test": GOOD["y_test"].astype(np.uint64)}),
    "small labels": lambda: content({"y_test": GOOD["y_test"].astype(np.int8)}),
    "header 2.0": lambda: content({"x_test": npy(GOOD["x_test"], (2, 0))}),
    "names without .npy": lambda: content(suffix=""),
    "another array": lambda: content({"notes": np.arange(3)}),
    "another member": lambda: content({"readme": b"no array"}),
    "bytes before the zip": lambda: b"#!/bin/sh\n" + content(),
    "bytes after the zip": lambda: content() + b"\0" * 100,
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_unusual_npz_files_are_understood(case, tmp_path, tally):
    path = tmp_path / "set.npz"
    path.write_bytes(UNDERSTOOD[case]())
    assert check(path, tally)
    assert load_images(f"NPZ:{path}", "train").images.is_contiguous()


def named_twice():
    members = [(f"{name}.npy", npy(array)) for name, array in GOOD.items()]
    return zipped([*members, ("x_train.npy", npy(GOOD["x_train"][::-1]))])


def overlapping():
    """The directory's entry of x_test leads to the bytes of x_train, whose name is then another."""
    data = bytearray(content())
    first, test = data.find(b"x_train.npy"), data.rfind(b"x_test.npy")
    struct.pack_into("<I", data, test - 4, first - 30)
    return bytes(data)


def in_directory(name, offset, fmt, value):
    """A field of a member's entry in the zip directory (46 bytes before its name) has another value."""
    data = bytearray(content())
    struct.pack_into(fmt, data, data.rfind(name) - 46 + offset, value)
    return bytes(data)


def labels(train, test=(0, 1, 2, 0)):
    return content({"y_train": np.asarray(train), "y_test": np.asarray(test)})


REFUSED = {  # content, words
    "a .npy file": (lambda: npy(GOOD["x_train"]), "not a readable NPZ"),
    "an empty zip": (lambda: zipped([]), "lacks x_test, x_train, y_test, y_train"),
    "named twice": (named_twice, "holds x_train twice"),
    "with and without .npy": (lambda: zipped([("x_train", b""), ("x_train.npy", b"")]), "holds x_train twice"),
    "other names": (lambda: content().replace(b"x_train", b"X_train"), "lacks x_train"),
    "overlapping members": (overlapping, "not a readable NPZ"),
    "bzip2": (lambda: content(compression=zipfile.ZIP_BZIP2), "packed in another way"),
    "lzma": (lambda: content(compression=zipfile.ZIP_LZMA), "packed in another way"),
    "unknown compression": (lambda: in_directory(b"x_train", 10, "<H", 99), "packed in another way"),
    "encrypted": (lambda: in_directory(b"x_train", 8, "<H", 1), "packed in another way"),
    "size too large": (lambda: in_directory(b"y_test", 24, "<I", 2**31), "y_test is not unpacked"),
    "size too small": (lambda: in_directory(b"x_train", 24, "<I", 1000), "not a readable NPZ"),
    "size nothing": (lambda: in_directory(b"x_train", 24, "<I", 0), "not a readable NPZ"),
    "packed size too large": (lambda: in_directory(b"x_train", 20, "<I", 2**31), "members overlap"),
    "wrong checksum": (lambda: in_directory(b"x_train", 16, "<I", 7), "Bad CRC-32"),
    "place past the end": (lambda: in_directory(b"y_train", 42, "<I", 2**31), "not a readable NPZ"),
    "empty member": (lambda: content({"x_train": b""}), "not a readable NPZ"),
    "no array": (lambda: content({"y_test": b"labels"}), "not a readable NPZ"),
    "header cut": (lambda: content({"y_test": npy(GOOD["y_test"])[:40]}), "not a readable NPZ"),
    "header no dict": (lambda: content({"y_test": with_header(GOOD["y_test"], b"{'descr'", b"['descr'")}), "not a readable NPZ"),
    "header nested": (
        lambda: content({"y_test": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000}),
        "not a readable NPZ",
    ),
    "header long": (
        lambda: content({"y_test": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 2000}),
        "not a readable NPZ",
    ),
    "header 9.0": (lambda: content({"y_test": b"\x93NUMPY\x09\x00" + b" " * 200}), "not a readable NPZ|another version"),
    "header 3.0": (lambda: content({"y_test": npy(GOOD["y_test"], (3, 0))}), "y_test has a header of another version"),
    "shape too large": (
        lambda: content({"x_train": with_header(GOOD["x_train"], b"(6, 32, 32, 3), }      ", b"(2000000, 32, 32, 3), }")}),
        r"y_train must be integers from 0, of shape \(2000000,\)",
    ),
    "rows too many": (
        lambda: content(
            {
                "x_train": with_header(GOOD["x_train"], b"(6, 32, 32, 3), }", b"(8, 32, 32, 3), }"),
                "y_train": np.arange(8) % 3,
            }
        ),
        r"is uint8 of shape \(8, 32, 32, 3\) by its header, 24576 bytes, but has 18432",
    ),
    "shape negative": (
        lambda: content({"x_train": with_header(GOOD["x_train"], b"(6, 32, 32, 3), }", b"(-6, 32, 32, 3),}")}),
        "x_train must be",
    ),
    "bytes behind the array": (lambda: content({"y_test": npy(GOOD["y_test"]) + b"more"}), "32 bytes, but has 36"),
    "objects": (lambda: content({"y_train": with_header(GOOD["y_train"], b"'<i8'", b"'|O' ")}), "holds Python objects"),
    "float labels": (lambda: content({"y_train": GOOD["y_train"] / 1}), "y_train must be integers .* not float64"),
    "durations as labels": (lambda: content({"y_train": GOOD["y_train"].astype("m8[s]")}), "not timedelta64"),
    "records": (lambda: content({"y_train": np.zeros(6, [("a", "i4")])}), "y_train must be integers"),
    "texts": (lambda: content({"y_train": np.array(["cat"] * 6)}), "y_train must be integers"),
    "a number": (lambda: content({"x_train": np.uint8(3)}), "x_train must be uint8"),
    "no images": (lambda: content({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}), "x_test must be uint8"),
    "channels first": (lambda: content({"x_test": GOOD["x_test"].transpose(0, 3, 1, 2)}), "x_test must be uint8"),
    "labels in columns": (lambda: content({"y_test": GOOD["y_test"][:, None]}), "y_test must be integers"),
    "one label fewer": (lambda: content({"y_test": GOOD["y_test"][:-1]}), "y_test must be integers"),
    "labels from 1": (lambda: labels([1, 2, 3, 1, 2, 3], [1, 2, 3, 1]), "no training image has label 0 "),
    "a gap": (lambda: labels([0, 1, 3, 0, 1, 3]), "no training image has label 2 "),
    "a test label of its own": (lambda: labels([0, 1, 2, 0, 1, 2], [0, 1, 4, 0]), "has label 3, 4 .2 of the labels 0 to 4"),
    "255 for unknown": (lambda: labels([0, 1, 2, 0, 1, 255]), "the largest label is 255, too large for 6 training images"),
    "10^7": (lambda: labels([0, 1, 2, 0, 1, 10**7]), "the largest label is 10000000"),
    "2^31": (lambda: labels([0, 1, 2, 0, 1, 2**31]), "the largest label is 2147483648"),
    "2^63 - 1": (lambda: labels([0, 1, 2], [0, 1, 2, 2**63 - 1]), "y_train must be|the largest label"),
    "2^64 - 1": (lambda: labels(np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)), "the largest label is 18446744073709551615"),
    "-2^63": (lambda: labels([0, 1, 2, 0, 1, -(2**63)]), "y_train must be integers from 0, and its smallest"),
    "one class": (lambda: labels([0] * 6, [0] * 4), "every label is 0"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", REFUSED)
def test_npz_files_that_mislead_are_refused(case, tmp_path, tally):
    make, words = REFUSED[case]
    path = tmp_path / "set.npz"
    path.write_bytes(make())
    assert not check(path, tally)
    with pytest.raises(BadInput, match=words):
        load_images(f"NPZ:{path}", "test")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_no_cut_and_no_flip_is_a_traceback_or_other_images(compression, tmp_path, tally):
    """A flip that goes unnoticed lies where nothing is read, such as a date."""
    whole, moments, path = content(compression=compression), random.Random(3), tmp_path / "set.npz"
    places = [place for name in GOOD for place in (whole.find(name.encode()), whole.rfind(name.encode()))]
    for trial in range(100):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[moments.randrange(len(data)) :]
        else:  # everywhere, or in a header of zip or of an array
            place = moments.randrange(len(data)) if trial % 3 == 1 else moments.choice(places) + moments.randrange(-46, 150)
            data[place % len(data)] ^= 1 << moments.randrange(8)
        path.write_bytes(data)
        if check(path, tally):
            assert trial % 3


def test_an_array_that_would_grow_a_thousandfold_is_not_unpacked(tmp_path, tally):
    count = 23_000  # 70 MB of zeros in 70 kB
    zeros = np.zeros((count, 32, 32, 3), np.uint8)
    np.savez_compressed(tmp_path / "zeros.npz", **GOOD | {"x_train": zeros, "y_train": np.arange(count) % 3})
    assert (tmp_path / "zeros.npz").stat().st_size < 200_000
    del zeros
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"x_train is not unpacked: .* bytes would become 70656128, more than 100 times"):
        load_images(f"NPZ:{tmp_path / 'zeros.npz'}", "train")
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()
    tally("file that unpacks to far more than it takes: refused before it is unpacked")


@pytest.mark.parametrize("count", [1, 3, 63, 64, 65, 200])
def test_mean_and_deviation_are_those_of_all_pixels_bit_for_bit(count, tmp_path):
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = {"y_train": np.arange(count) % 2, "x_test": GOOD["x_test"], "y_test": np.arange(4) % min(count, 2)}
    if count == 1:
        labels["y_train"], images = np.array([0, 1]), np.repeat(images, 2, axis=0)
    np.savez(tmp_path / "set.npz", x_train=images, **labels)
    found = load_images(f"NPZ:{tmp_path / 'set.npz'}", "test")
    pixels = images.reshape(-1, 3) / 255.0
    assert (found.mean, found.std) == (tuple(pixels.mean(axis=0)), tuple(pixels.std(axis=0)))


def test_loading_takes_little_more_than_the_images(tmp_path):
    name = write_npz(tmp_path / "set.npz", train=2000, test=500, classes=10)
    size = 2000 * 32 * 32 * 3
    for split in ("train", "test"):
        tracemalloc.start()
        load_images(name, split)
        assert tracemalloc.get_traced_memory()[1] < size + (12 << 20)  # as float64 they alone take eight times their size
        tracemalloc.stop()


PEAK = """
import json, resource, sys
from utils.dataset import load_images
sets = [load_images(sys.argv[1], split, sys.argv[2]) for split in ("train", "test")]
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))
"""


@pytest.mark.slow
def test_50000_images_take_no_more_memory_than_cifar(tmp_path, data_root):
    npz = write_npz(tmp_path / "set.npz", train=50_000, test=10_000, classes=10)
    mebibytes = {}
    for name in (npz, "CIFAR10"):
        command = [sys.executable, "-c", PEAK, name, str(data_root)]
        mebibytes[name] = json.loads(subprocess.run(command, cwd=PROJECT, check=True, capture_output=True).stdout)
    assert mebibytes[npz] < 1.05 * mebibytes["CIFAR10"], mebibytes
