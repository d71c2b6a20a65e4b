"""Options: frozen dataclasses whose fields know their help text, flags and kind of value.

One field is all there is to an option: it is validated where an object is made, whoever makes it, and the command line's flags
(utils/cli/parser.py), the names in a manifest and the flags of a child process are derived from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from utils.errors import BadInput, shortened
from utils.options.kinds import Kind, Switch

REQUIRED = MISSING  # in the place of a default


def setting(
    default: Any,
    text: str,
    *short: str,
    kind: Kind | None = None,
    metavar: str | None = None,
    several: bool = False,
    positional: bool = False,
    group: str | None = None,
    **notes: Any,
) -> Any:
    """A field of a subclass of Options.

    default: its value; a function that gives it; or REQUIRED. text: meaning and unit, for the help. short: short flags beside
    the long one, which is the field's name. kind: of the value (None: any text). several: the value is a tuple of such values; a
    text has spaces between them, and with the note `repeatable` the flag may be given several times. positional: the command line
    has no flag for it. group: the heading of the help that it stands under. notes: what else the owner of the field wants to know
    of it, in the field's metadata.
    """
    about = {"text": text, "short": short, "kind": kind or Kind(), "metavar": metavar, "several": several}
    return _field(default, about | {"positional": positional, "group": group} | notes)


def like(cls: type, name: str, **changes: Any) -> Any:
    """A field like a class's of this name, with changes: another default, or another argument of `setting`."""
    entry = cls.__dataclass_fields__[name]
    default = entry.default if entry.default_factory is MISSING else entry.default_factory
    return _field(changes.pop("default", default), {**entry.metadata, **changes})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    return field(**({"default_factory": default} if callable(default) else {"default": default}), metadata=metadata)


def settings_of(cls: type) -> dict[str, Field]:
    """The settings of a class by name."""
    return {entry.name: entry for entry in fields(cls) if "kind" in entry.metadata}


def noted(cls: type, note: str) -> dict[str, Any]:
    """Name -> what the note says, for the settings of a class that have it."""
    return {name: entry.metadata[note] for name, entry in settings_of(cls).items() if note in entry.metadata}


def default_of(entry: Field) -> Any:
    """A setting's default; REQUIRED where there is none."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def flag(name: str) -> str:
    """The long flag of a setting."""
    return f"--{name.replace('_', '-')}"


def spelling(entry: Field) -> str:
    """A setting's flags as messages name them: -lr/--init-lr."""
    return "/".join([*entry.metadata["short"], flag(entry.name)])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class. Making an object raises BadInput for a value that its setting does not accept, naming both."""

    def __post_init__(self):
        for name, entry in settings_of(type(self)).items():
            value = getattr(self, name)
            if value is not None or default_of(entry) is not None:
                self._set(name, _checked(entry, value))

    def _set(self, name: str, value: Any) -> None:
        """For __post_init__ alone: the object is frozen afterwards."""
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, arguments: Any) -> Self:
        """From the attributes of a parsed command line."""
        return cls(**{name: getattr(arguments, name) for name in settings_of(cls)})

    @classmethod
    def from_values(cls, values: Mapping[str, Any], origin: str) -> Self:
        """From settings by name, with dashes or underscores, as texts or values; origin: where they stand, for the error.

        Raises BadInput for an unknown name or a value that its setting does not accept.
        """
        known, given = settings_of(cls), {}
        try:
            for name, value in values.items():
                entry = known.get(name.replace("-", "_"))
                if entry is None:
                    raise BadInput(f"there is no setting {flag(name)}")
                given[entry.name] = _checked(entry, value, from_text=isinstance(value, str))
            return cls(**given)
        except BadInput as error:
            raise BadInput(f"{origin}: {error}") from None

    def flags(self, names: Iterable[str] | None = None) -> list[str]:
        """The command-line flags that give the named settings (None: all but positional ones); what is off or None has none."""
        flags = []
        for name, entry in settings_of(type(self)).items():
            value, kind = getattr(self, name), entry.metadata["kind"]
            if entry.metadata["positional"] if names is None else name not in names:
                continue
            if isinstance(kind, Switch):
                flags += [flag(name)] if value else []
            elif value not in (None, ()):
                flags += [flag(name), *map(kind.text, value if entry.metadata["several"] else [value])]
        return flags

    def as_dict(self) -> dict[str, Any]:
        """Name -> value; several values are a list, as in JSON."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _checked(entry: Field, value: Any, from_text: bool = False) -> Any:
    kind = entry.metadata["kind"]
    accept = kind.read if from_text else kind.check
    try:
        if not entry.metadata["several"]:
            return accept(value)
        values = value.split() if from_text else value
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"must be a list, not {shortened(repr(value))}")
        return tuple(map(accept, values))
    except ValueError as error:
        raise BadInput(f"{spelling(entry)}: {error}") from None
