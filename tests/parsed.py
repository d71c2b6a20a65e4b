"""Command lines as main.py's parser reads them, and the settings that none can lack."""

from main import COMMANDS
from utils.cli.parser import build_parser
from utils.run.settings import TrainSettings

REQUIRED = {"model": "ResNet20", "dataset": "CIFAR10"}  # the settings that have no default


def parsed(argv):
    return build_parser(COMMANDS).parse_args(argv)


def train_settings(flags):
    """The settings of `main.py train` with these flags."""
    return TrainSettings.of(parsed(["train", *flags]))
