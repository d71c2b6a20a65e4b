"""Command lines as main.py's parser reads them."""

from main import COMMANDS
from utils.cli.parser import build_parser
from utils.run.settings import TrainSettings


def parsed(argv):
    return build_parser(COMMANDS).parse_args(argv)


def train_settings(flags):
    """The settings of `main.py train` with these flags."""
    return TrainSettings.of(parsed(["train", *flags]))
