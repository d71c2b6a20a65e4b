"""main.py with one more net, ResNet8, for the tests that need no net of the paper: a quarter of ResNet20's time.

Importing it registers the net; as a program, it is what `main.py tables` starts for a run of it.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models_CIFAR.resnet import ResNet
from utils.choices import MODELS

SMALL_MAIN = Path(__file__).resolve()
MODELS["ResNet8"] = partial(ResNet, 8)

if __name__ == "__main__":
    from main import main  # after the net is registered: the registry's names are the flags' choices

    sys.exit(main(program=SMALL_MAIN))
