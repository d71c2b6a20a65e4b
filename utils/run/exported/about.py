"""What an exported file says of itself: net, quantizer, data, accuracy and run, by name, each as a JSON text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from utils.batches import SIZE
from utils.choices import MAX_BITS, is_net
from utils.files import strict_json
from utils.files.checks import FINITE, NAME, POSITIVE, TEXT, WHOLE, Check, each, list_of, object_of, or_none
from utils.files.text import is_text, shown
from utils.options.kinds import DataSet
from utils.run.identity import NOTHING, Identity, content_digest

FORMAT, VERSION = "metaquant", 1
IMAGE_SIZE = [3, SIZE, SIZE]
DIGEST = "sha256"  # of everything else: see `export_digest`
MOST_PATTERNS = 1000  # of `keep`


@dataclass(frozen=True, kw_only=True)
class About:
    """The fields of the metadata that both formats have.

    architecture: the net's name (-m); keep: patterns of its layers in full precision; num_classes: its other argument.
    bits: of the quantizer, as --bits has it. image_size: channels, height, width; mean, std: per channel, of pixels in [0, 1].
    test: top1 and top5 in percent, and loss, of the net on the data set's test images.
    run: its folder's name; epochs_done of epochs. contents: digests of what it was made of, as in its record.
    commit: of the program that trained it, None where it is not known; versions: of Python and packages then.
    """

    architecture: str
    num_classes: int
    keep: list[str]
    quantizer: str
    bits: int
    image_size: list[int]
    mean: list[float]
    std: list[float]
    dataset: str
    test: dict[str, float]
    run: str
    epochs_done: int
    epochs: int
    contents: dict[str, str]
    commit: str | None
    versions: dict[str, str]
    format_version: int = VERSION

    def texts(self) -> dict[str, str]:
        """The metadata: name -> JSON text."""
        values = {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}
        return {name: strict_json.dumps(value) for name, value in values.items()}

    @property
    def identity(self) -> Identity:
        """What the run was made of."""
        return Identity({"dataset": self.dataset}, self.contents)

    @classmethod
    def of(cls, texts: Mapping[str, str], more: Mapping[str, Check] = NOTHING) -> tuple[Self, dict[str, Any]]:
        """From a file's metadata; more: fields beside them, which are returned by name.

        Raises ValueError, naming the field, for what is missing, unknown or of another kind; for another format or version; and
        for a net that this program does not know.
        """
        if texts.get("format") != strict_json.dumps(FORMAT):
            raise ValueError("it is not an export of this program")
        values = {}
        for name, text in texts.items():
            try:
                values[name] = strict_json.loads(text)
            except ValueError as error:
                raise ValueError(f"its metadata {shown(name)} is not JSON: {error}") from None
        if (version := values.get("format_version")) != VERSION or type(version) is not int:
            raise ValueError(f"it is of format version {shown(version)}, and this program reads version {VERSION}")
        checks = {**FORM, **more}
        names = {"format", DIGEST, *checks}
        if odd := sorted(names ^ values.keys()):
            raise ValueError(f"its metadata {'lacks' if odd[0] in names else 'has an unknown'} {shown(odd[0])}")
        for name, check in checks.items():
            if not check.holds(values[name]):
                raise ValueError(f"its {name} must be {check.accepts}, not {shown(values[name])}")
        if not is_net(values["architecture"]):
            raise ValueError(f"its architecture {values['architecture']} is a net that this program does not know")
        return cls(**{name: values[name] for name in FORM}), {name: values[name] for name in more}


def _exactly(value: Any) -> Check:
    return Check(strict_json.dumps(value), lambda other: other == value)


def _is_data_set(value: Any) -> bool:
    try:
        return bool(DataSet().check(value))
    except ValueError:
        return False


_CHANNELS = Check("three numbers", lambda value: list_of(FINITE).holds(value) and len(value) == 3)
_PATTERNS = Check("a list of patterns", lambda v: isinstance(v, list) and len(v) <= MOST_PATTERNS and all(map(is_text, v)))
FORM = {
    "architecture": NAME,
    "num_classes": POSITIVE,
    "keep": _PATTERNS,
    "quantizer": NAME,
    "bits": Check(f"a whole number from 1 to {MAX_BITS}", lambda value: type(value) is int and 1 <= value <= MAX_BITS),
    "image_size": _exactly(IMAGE_SIZE),
    "mean": _CHANNELS,
    "std": _CHANNELS,
    "dataset": Check(DataSet().accepts, _is_data_set),
    "test": object_of(dict.fromkeys(("top1", "top5", "loss"), FINITE), exact=True),
    "run": TEXT,
    "epochs_done": WHOLE,
    "epochs": WHOLE,
    "contents": each(TEXT),
    "commit": or_none(TEXT),
    "versions": each(TEXT),
    "format_version": POSITIVE,
}


def export_digest(texts: Mapping[str, str], arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of the metadata, apart from the digest itself, and of arrays by name, in the order given."""
    others = {name: text for name, text in texts.items() if name != DIGEST}
    return content_digest(((name, np.asarray(array, order="C")) for name, array in arrays), others)
