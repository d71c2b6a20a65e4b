"""The sets of settings that may differ, and that none of them holds what is no setting."""

from utils.report import compared
from utils.run.common_settings import MAY_DIFFER
from utils.run.folder.fields import SETTINGS
from utils.run.identity import CONTENTS


def test_the_sets_differ_where_they_mean_to():
    ignored = {"trial", "seed", "deterministic", "loader", *MAY_DIFFER, *CONTENTS}
    assert ignored == compared.IN_A_MEAN
    assert compared.IN_A_SWEEP - ignored == {"exp_spec", "pretrained"}
    assert {"trial", "exp_spec", *MAY_DIFFER} == compared.WHO_AND_WHERE
    step = {"bias_corrected_eps", "init_lr", "momentum", "quantizer_lr", "weight_decay"}
    assert {*step, "deterministic", "loader", "seed", "all settings"} == compared.FROM_BASELINE
    assert {*step, "clip", "lr_adjust", "optimizer", "warmup", "deterministic", "loader"} == compared.FROM_BEST_STE


def test_each_member_is_a_setting():
    of_an_optimizee = {"momentum", "bias_corrected_eps"}  # which a record has beside the flags
    members = compared.IN_A_SWEEP | compared.FROM_BASELINE | compared.FROM_BEST_STE | compared.DEFINES_THE_METHOD
    assert members - {compared.NOT_RECORDED, *CONTENTS} - of_an_optimizee <= set(SETTINGS)
