"""What figs/controls.py says that its runs have in common."""

from run_folders import DIGITS, make_trial, settings_of

from figs import controls


def trial(epochs=1, made_by="cpu, torch 2.15, commit aaa", number=1, **changes):
    settings = settings_of(DIGITS, number, epochs, batch_size=16, **changes)
    return make_trial([50.0] * epochs, DIGITS, number, settings=settings, made_by=made_by)


def test_one_is_singular_and_what_is_off_is_left_out():
    assert controls.caption([trial()]) == (
        "ResNet20 Digits; 1 epoch, 16 images per batch, float32; n = 1 trial per cell; cpu, torch 2.15, commit aaa."
    )
    bare = trial(made_by="", validation=1)
    assert (
        controls.caption([bare])
        == "ResNet20 Digits; 1 epoch, 16 images per batch, 1 validation image, float32; n = 1 trial per cell."
    )


def test_several_are_listed():
    trials = [trial(validation=5000), trial(3), trial(3, number=2)]
    assert controls.caption(trials) == (
        "ResNet20 Digits; 1 and 3 epochs, 16 images per batch, 5,000 validation images or none, float32; "
        "n = 1 to 2 trials per cell; cpu, torch 2.15, commit aaa."
    )


def test_a_resumed_run_was_made_on_each_of_its_machines():
    resumed = "cpu, torch 2.15, commit bbb with changes; then gpu, torch 2.16, commit aaa"
    trials = [trial(made_by=text, number=k) for k, text in enumerate((resumed, "cpu, torch 2.15, commit aaa", "", "tpu"))]
    assert controls.made_by(trials) == "cpu, torch 2.15, commits aaa and bbb with changes; gpu, torch 2.16, commit aaa; tpu"
