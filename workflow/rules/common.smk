"""The checked config, and the recipe of each rule's output."""

import hashlib
import os
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from twophase.config import read_config
from twophase.errors import ConfigError
from twophase.provenance import canonical, code_fingerprint, make_recipe
from twophase.stale_locks import clear_stale_locks
from twophase.trajectories import LINEARIZED_PATTERN, TRAJECTORY_PATTERN

try:
    CONFIG = read_config(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RUNNING = clear_stale_locks(Path(".snakemake"))

SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
EMBEDDED_IMAGES = Path(workflow.basedir) / "workflow" / "resources" / "fashion_mnist" / "images.nc"
STUDIES = CONFIG.selected()


wildcard_constraints:
    study="|".join(CONFIG.studies),
    seed=r"\d+",
    trajectory=TRAJECTORY_PATTERN,
    linearized=LINEARIZED_PATTERN,
    step=r"\d+",


def recipe_text(name):
    """A params function: the recipe of a rule's output for the study of its wildcards."""
    return lambda wildcards: canonical(recipe(name, wildcards.study))


@cache
def recipe(rule_name, study_name):
    """What decides the output of a rule: its settings, its code, and the recipes of its inputs."""
    study = CONFIG.studies[study_name]
    # A user's network counts where it is trained; from there on it is part of the inputs' recipes.
    trains = rule_name in ("advance", "advance_linearized")
    import_path = study.model.name if trains and ":" in study.model.name else None
    code = code_fingerprint(SCRIPTS / f"{rule_name}.py", import_path=import_path)
    settings, inputs = SETTINGS[rule_name](study)
    return make_recipe(
        rule_name,
        settings,
        code,
        **{name: recipe(maker, study_name) for name, maker in inputs.items()},
    )


def settings_of_data(study):
    settings = {"data": study.data.model_dump()}
    if study.data.source == "image_folder":
        settings["files"] = hashlib.sha256(canonical(study.data.listing().signature()).encode()).hexdigest()
    if study.data.source == "embedded_fashion_mnist":
        settings["files"] = hashlib.sha256(EMBEDDED_IMAGES.read_bytes()).hexdigest()
    return settings, {}


def settings_of_comparison(study):
    measures = (
        "growth_steps",
        "interpolation_points",
        "evaluation_examples",
        "batch_norm_examples",
    )
    settings = {
        "comparison_steps": study.chaos.comparison_steps,
        "measures": study.chaos.model_dump(include=set(measures)),
    }
    return settings, {"checkpoint": "advance"}


def settings_of_chaos(study):
    axes = {
        "perturbation_steps",
        "comparison_steps",
        "kinds",
        "relative_norms",
        "draws",
    }
    return {"seeds": study.seeds, **study.chaos.model_dump(include=axes)}, {"comparison": "compare_branch"}


def settings_of_cone(study):
    measures = study.cone.model_dump(include={"reference_steps", "intervals"})
    settings = {
        "seeds": study.seeds,
        "steps": study.cone.kernel_steps,
        "measures": measures,
    }
    return settings, {"kernel": "compute_entk"}


def settings_of_linearized_measures(study):
    settings = {
        "anchors": {"checkpoint_every": study.training.checkpoint_every, "length": study.length()},
        "measures": study.switching.model_dump(include={"evaluation_examples", "probe_examples"}),
    }
    return settings, {"linearized": "advance_linearized"}


def settings_of_switching(study):
    settings = {
        "seeds": study.seeds,
        "learning_rates": study.linearized_rates(),
        "switch_steps": study.switching.switch_steps,
    }
    return settings, {"measures": "measure_linearized"}


def settings_of_switching_figure(study):
    settings = {
        "style": CONFIG.figures.model_dump(),
        "published": study.switching.model_dump(include={"published_test_accuracy"}, mode="json"),
    }
    return settings, {"switching": "collect_switching"}


def settings_of_figures(input_name, maker):
    return lambda study: (CONFIG.figures.model_dump(), {input_name: maker})


# For each rule: the settings that decide its output, and by which rule each of its inputs is made.
SETTINGS = {
    "prepare_data": settings_of_data,
    "advance": lambda study: (study.run_settings(), {"data": "prepare_data"}),
    "record_history": lambda study: (
        {"seeds": study.seeds, "steps": history_steps(study)},
        {"checkpoint": "advance"},
    ),
    "compare_branch": settings_of_comparison,
    "collect_chaos": settings_of_chaos,
    "compute_entk": lambda study: (
        study.cone.model_dump(include={"kernel", "probe_examples"}),
        {"checkpoint": "advance"},
    ),
    "measure_cone": settings_of_cone,
    "advance_linearized": lambda study: (study.linearized_settings(), {"checkpoint": "advance"}),
    "measure_linearized": settings_of_linearized_measures,
    "collect_switching": settings_of_switching,
    "plot_history": settings_of_figures("history", "record_history"),
    "plot_chaos": settings_of_figures("chaos", "collect_chaos"),
    "plot_cone": settings_of_figures("cone", "measure_cone"),
    "plot_switching": settings_of_switching_figure,
}
