"""Bad input to the real Snakefile: one message that names what is wrong, before or instead of any result."""

import pytest
import xarray as xr


def message_of(project, *arguments: str) -> str:
    done = project.snakemake("--cores", "2", *arguments, check=False)
    assert done.returncode != 0, done.stdout
    return done.stdout


def test_config_errors_appear_all_at_once_and_nothing_starts(project):
    study = project.config["studies"]["short"]
    study["data"]["image_sise"] = 3
    study["training"]["batch_size"] = "many"
    study["cone"] = {"kernel_steps": [0, 900]}
    study["switching"] = {"switch_steps": [3, 5], "evaluation_exmaples": 20}
    project.write_config(project.config)
    text = message_of(project)
    assert "studies.short.data.image_sise: unknown key; did you mean 'image_size'?" in text
    assert "studies.short.training.batch_size: expected a valid integer" in text
    assert "studies.short.cone.kernel_steps: must not exceed the run's length of 5 steps, got [900]" in text
    assert "studies.short.switching.switch_steps: must lie below the run's length of 5 steps, got [5]" in text
    assert "switching.evaluation_exmaples: unknown key; did you mean 'evaluation_examples'?" in text
    assert "Traceback" not in text
    assert not (project.folder / "results").exists()


def test_missing_image_folder_is_a_config_error(project):
    project.config["studies"]["short"]["data"] = {"source": "image_folder", "folder": "pictures"}
    project.write_config(project.config)
    assert "studies.short.data.folder: pictures/train is not a folder" in message_of(project)


def test_divergence_names_the_step_and_other_runs_go_on(project):
    study = project.config["studies"]["short"]
    study["training"]["length"] = 30
    study["optimizer"] = {"name": "sgd", "learning_rate": 1e25}
    project.config["studies"]["steady"] = {**study, "optimizer": {"name": "sgd", "learning_rate": 0.01}}
    project.write_config(project.config)
    text = message_of(project)
    assert "the training loss became nan at step" in text or "the training loss became inf at step" in text
    assert (project.folder / "results/steady/history.nc").exists()
    assert not (project.folder / "results/short/seed0/parent/step10.pt").exists()


def test_divergence_of_a_linearised_run_is_a_result(project):
    study = project.config["studies"]["short"]
    study["training"] |= {"length": 14, "checkpoint_every": 4}  # some segments begin after the divergence
    switching = {"switch_steps": [2, 8], "learning_rates": [0.01, 1e30]}
    study["switching"] = switching | {"evaluation_examples": 50, "probe_examples": 10}
    project.write_config(project.config)
    project.snakemake("--cores", "2")
    switching = xr.open_dataset(project.folder / "results/short/switching.nc").isel(seed=0)
    assert switching["diverged"].values.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert (switching["diverged_at"] > switching["switch_step"]).sel(learning_rate=1e30).all()
    assert (switching["kernel_change"] <= 1e-12).all()
    for name in ("test_accuracy", "test_loss", "distance", "disagreement_rate"):
        assert switching[name].sel(learning_rate=0.01).notnull().all(), name
        assert switching[name].sel(learning_rate=1e30).isnull().all(), name
    log = project.folder / "results/short/logs/advance_linearized/seed0_linearized_at8_rate1e+30_step12.log"
    assert "diverged at step" in log.read_text()
    assert (project.folder / "results/short/figures/switching.png").exists()


def test_users_network_with_another_output_shape(project):
    (project.folder / "mynet.py").write_text(
        "from torch import nn\n"
        "def build(*, image_shape, classes, units):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], units))\n"
    )
    model = {"name": "mynet:build", "arguments": {"units": 7}}
    project.config["studies"]["short"]["model"] = model
    project.write_config(project.config)
    text = message_of(project)
    assert "mynet:build" in text
    assert "(2, 7)" in text
    assert "(2, 10)" in text
    model["arguments"] = {"units": 10}
    project.write_config(project.config)
    project.snakemake("--cores", "2")


@pytest.mark.parametrize("kept", [0, 100, 3000])
def test_truncated_checkpoint_is_named(project, kept):
    project.snakemake("--cores", "2", "results/short/seed0/parent/step0.pt")
    path = project.folder / "results/short/seed0/parent/step0.pt"
    path.write_bytes(path.read_bytes()[:kept])
    text = message_of(project, "--rerun-triggers", "mtime", "--", "results/short/seed0/parent/step5.pt")
    assert "results/short/seed0/parent/step0.pt is truncated, damaged or not a checkpoint" in text


def test_results_of_other_settings_are_refused_where_snakemake_is_told_to_look_at_file_times_only(project):
    project.snakemake("--cores", "2", "results/short/seed0/parent/step0.pt")
    project.config["studies"]["short"]["optimizer"]["learning_rate"] = 0.07
    project.write_config(project.config)
    text = message_of(project, "--rerun-triggers", "mtime", "--", "results/short/seed0/parent/step5.pt")
    assert "was made by other settings or other code" in text
    assert "settings.optimizer.learning_rate: file has 0.05, expected 0.07" in text
