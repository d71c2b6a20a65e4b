"""What a run is made of: its settings, and by their content its data, its base model, the phi it began with and a program of
one's own.

Compared on resume, by `evaluate` and by the report. Paths play no part, and what an earlier record or checkpoint lacks is not
compared.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from utils import MAIN, PROJECT
from utils.choices import npz_path
from utils.errors import BadInput
from utils.run.common_settings import MAY_DIFFER, Settings, with_precision
from utils.run.paths import NO_BASE_MODEL

CONTENTS = ("data_digest", "base_model", "program", "program_imports", "phi_digest")  # in run.json and checkpoints
DATA, BASE_MODEL, PROGRAM, IMPORTS, PHI = CONTENTS
OTHER = {
    DATA: "was trained on data other than what {dataset} holds now",
    BASE_MODEL: "began with weights other than what {pretrained} holds now",
    PHI: "began with a phi other than what {phi} holds now",
    PROGRAM: "was made by another version of this program, or by another program",
    IMPORTS: "was made with other versions of the files that this program imports",
}
NOTHING: Mapping[str, str] = MappingProxyType({})
THIS_PROJECT = [MAIN, *(PROJECT / name for name in ("models_CIFAR", "meta_utils", "utils", "figs", "scripts", "tests"))]
IMPORT_CALLS = ("import_module", "__import__")
IMAGES = 4096  # hashed at a time: CIFAR's arrays are not contiguous


def data_digest(*splits: Any) -> str:
    """SHA-256 of the splits' images, targets and numbers of classes (utils.batches.ImageSet). CIFAR takes 0.3 s."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{tuple(split.images.shape)} {split.num_classes} ".encode())
        for start in range(0, len(split.images), IMAGES):
            digest.update(split.images[start : start + IMAGES].contiguous().numpy())
        digest.update(split.targets.numpy().astype("<i8"))
    return digest.hexdigest()


def content_digest(arrays: Iterable[tuple[str, Any]], texts: Mapping[str, str] = NOTHING) -> str:
    """SHA-256 of texts by name, and of contiguous NumPy arrays by name, in the order given."""
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode(errors="surrogatepass"))
    for name, array in arrays:
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode(errors="surrogatepass"))
        digest.update(array)
    return digest.hexdigest()


def file_digest(path: str | Path) -> str | None:
    """A file's SHA-256; None where there is none."""
    path = Path(path)
    return _digest_of_version(path, path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


@cache
def _digest_of_version(path: Path, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def program_contents(program: str | Path) -> dict[str, str]:
    """Digests of a program of one's own and, where there are any, of the files in its folder that it imports, as in Identity.

    Empty for main.py, whose commit is recorded.
    """
    program = Path(program).resolve()
    digest = None if program == MAIN else file_digest(program)
    if digest is None:
        return {}
    digests = [f"{path.relative_to(program.parent)} {file_digest(path)}" for path in sorted(imported_files(program))]
    imports = {IMPORTS: hashlib.sha256("\n".join(digests).encode(errors="surrogatepass")).hexdigest()} if digests else {}
    return {PROGRAM: digest} | imports


def imported_files(program: Path) -> set[Path]:
    """The files in and below a program's folder that its import statements lead to, in functions too; not this project's."""
    found, to_read = set(), [program]
    while to_read:
        file = to_read.pop()
        if file not in found and not any(map(file.is_relative_to, THIS_PROJECT)):
            found.add(file)
            to_read += _named_by(file, program.parent)
    return found - {program}


def _named_by(file: Path, folder: Path) -> list[Path]:
    """The files that a file's imports name, relative to a folder or to the file's own; none where it cannot be read."""
    try:
        statements = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    found = []
    for statement in statements:
        if isinstance(statement, ast.Import):
            named = [(folder, alias.name.split(".")) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            start = [folder, *file.parents][statement.level] if statement.level <= len(file.parents) else folder
            package = statement.module.split(".") if statement.module else []
            named = [(start, [*package, alias.name]) for alias in statement.names]
            if statement.names[0].name == "*":
                found += sorted(start.joinpath(*package).glob("*.py"))
        elif isinstance(statement, ast.Call) and ast.unparse(statement.func).rpartition(".")[2] in IMPORT_CALLS:
            texts = [given.value for given in statement.args[:1] if isinstance(given, ast.Constant)]
            named = [(folder, text.split(".")) for text in texts if isinstance(text, str) and not text.startswith(".")]
        else:
            continue
        for start, parts in named:
            for end in range(1, len(parts) + 1):
                module = start.joinpath(*parts[:end])
                found += [path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file()]
    return found


def switched_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drops settings that are off, empty or None, so that a newly added one does not invalidate older records."""
    return {name: value for name, value in settings.items() if value not in (None, (), []) and value is not False}


def in_words(value: Any) -> str:
    """A setting's value as messages and tables show it: "off" for None, the members of a list with spaces between them."""
    if value is None:
        return "off"
    return " ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Identity:
    """Settings by name, as in run.json, and digests by the names in CONTENTS, as far as they are known."""

    settings: Mapping[str, Any]
    contents: Mapping[str, str]

    @classmethod
    def of_command(cls, settings: Settings, contents: Mapping[str, str]) -> "Identity":
        """Of what a command asks for; the digest of a base model's file is added to the others."""
        pretrained = getattr(settings, "pretrained", NO_BASE_MODEL)
        base_model = None if pretrained == NO_BASE_MODEL else file_digest(pretrained)
        return cls(settings.as_dict(), dict(contents) | ({BASE_MODEL: base_model} if base_model else {}))

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Identity":
        """Of a run.json or a checkpoint."""
        settings = record.get("settings")
        known = {name: record[name] for name in CONTENTS if isinstance(record.get(name), str)}
        return cls(with_precision(settings) if isinstance(settings, dict) else {}, known)

    def differing_settings(self, here: "Identity") -> str:
        """The settings in which this, of a record, and a command's identity differ, in words; "" if in none."""
        there, other = (switched_on(json.loads(json.dumps(side.settings))) for side in (self, here))
        names = {name for name in there.keys() | other.keys() if name not in MAY_DIFFER and there.get(name) != other.get(name)}
        if DATA in self.contents and all(npz_path(str(side.get("dataset"))) for side in (there, other)):
            names.discard("dataset")  # another path: the digest is compared
        for name, content in (("pretrained", BASE_MODEL), ("phi", PHI)):
            digests_known = content in self.contents and content in here.contents
            if digests_known or len({Path(str(side.get(name))).name for side in (there, other)}) == 1:
                names.discard(name)  # another path: the digest is compared where both are known
        values = {name: [in_words(side.settings.get(name)) for side in (self, here)] for name in sorted(names)}
        return ", ".join(f"{name} {its} there and {own} here" for name, (its, own) in values.items())

    def differing_contents(self, here: "Identity") -> str:
        """As differing_settings, of the digests that both know."""
        paths = {name: here.settings.get(name) for name in ("dataset", "pretrained", "phi")}
        both = [name for name in CONTENTS if name in self.contents and name in here.contents]
        return " and ".join(OTHER[name].format_map(paths) for name in both if self.contents[name] != here.contents[name])


def check_checkpoint(folder: Path, state: Mapping[str, Any], own: Identity, advice: str) -> None:
    """Raises BadInput where a checkpoint in a run's folder has other settings or contents than the run's own, each named."""
    its = Identity.of_record(state)
    settings = its.differing_settings(own) if its.settings else ""
    found = [*([f"has other settings: {settings}"] if settings else []), *filter(None, [its.differing_contents(own)])]
    if found:
        raise BadInput(f"{folder}: its checkpoint is of a run that {' and '.join(found)}; {advice}")
