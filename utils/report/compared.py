"""Which settings may differ among the runs that are compared: in one mean, in a sweep, with a baseline, with the best of STE."""

from utils.report.labels import NAMES_THE_RUN
from utils.run.common_settings import MAY_DIFFER
from utils.run.identity import CONTENTS, IMPORTS, PROGRAM
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS

NOT_RECORDED = "all settings"  # in the place of a setting, where a trial has no record
WHO_AND_WHERE = {"trial", NAMES_THE_RUN, *MAY_DIFFER}  # a run's number, name, device and paths
COMPUTED = {"deterministic", "loader"}  # how the same thing is computed
STEP = {"bias_corrected_eps", "init_lr", "momentum", "quantizer_lr", "weight_decay"}  # how W steps, by one optimizer and schedule
OPTIMIZER_AND_SCHEDULE = {"clip", "lr_adjust", "optimizer", "warmup"}
DEFINES_THE_METHOD = {"backward", PROGRAM, IMPORTS, *META_OPTIONS, *LEARNED_DEFAULTS}

IN_A_MEAN = {*(WHO_AND_WHERE - {NAMES_THE_RUN}), *COMPUTED, *CONTENTS, "seed"}  # digests are compared where several are known
IN_A_SWEEP = {*IN_A_MEAN, NAMES_THE_RUN, "pretrained"}
FROM_BASELINE = {*STEP, *COMPUTED, "seed", NOT_RECORDED}
FROM_BEST_STE = {*STEP, *OPTIMIZER_AND_SCHEDULE, *COMPUTED}  # not the seed, on which the validation images depend
