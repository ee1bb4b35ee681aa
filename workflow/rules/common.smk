"""The checked config, and the recipe of each rule's output."""

import hashlib
import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library beside this file, for the Snakefile and for the jobs, whatever environment these run in.
LIBRARY = str(Path(workflow.basedir) / "workflow" / "src")
if LIBRARY not in sys.path:
    sys.path.insert(0, LIBRARY)
OTHERS = [place for place in (os.getenv("PYTHONPATH") or "").split(os.pathsep) if place not in ("", LIBRARY)]
os.environ.update(PYTHONPATH=os.pathsep.join([LIBRARY, *OTHERS]))

from twophase.config import read_config
from twophase.errors import ConfigError
from twophase.estimates import NETWORK_RULES, StudyEstimates, tile_work
from twophase.phase_diagram.grid import TILE_PATTERN
from twophase.provenance import canonical, code_fingerprint, digest, make_recipe
from twophase.stale_locks import clear_stale_locks
from twophase.trajectories import BRANCH_PATTERN, LINEARIZED_PATTERN, PARENT

try:
    CONFIG = read_config(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None


def say(message):
    print(f"twophase: {message}", file=sys.stderr, flush=True)


RUNNING = clear_stale_locks(Path(".snakemake")) if workflow.is_main_process else None

SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
EMBEDDED_IMAGES = Path(workflow.basedir) / "workflow" / "resources" / "fashion_mnist" / "images.nc"
ENTK_MEMORY_MB = 4000  # that a kernel may take beyond the network and its images
FLOW_MEMORY_MB = 2000  # that the networks of a tile may take
STUDIES = CONFIG.selected()
DIAGRAMS = CONFIG.selected_diagrams()
SWEEPS = CONFIG.sweeps()


wildcard_constraints:
    study="|".join(map(re.escape, CONFIG.studies)) or "(?!)",
    sweep="|".join(SWEEPS) or "(?!)",
    diagram="|".join(CONFIG.phase_diagrams) or "(?!)",
    tile=TILE_PATTERN,
    seed=r"\d+",
    trajectory=f"{PARENT}|{BRANCH_PATTERN}",
    linearized=LINEARIZED_PATTERN,
    step=r"\d+",


def recipe_text(name):
    """A params function: the recipe of a rule's output for the study, or the phase diagram, of its wildcards."""
    return lambda wildcards: canonical(recipe(name, wildcards.get("study") or wildcards.diagram))


@cache
def recipe(rule_name, name):
    """What decides the output of a rule: its settings, its code, and the recipes of its inputs."""
    section = CONFIG.studies.get(name) or CONFIG.phase_diagrams[name]
    # A user's network counts where it is trained; from there on it is part of the inputs' recipes.
    trains = rule_name in ("advance", "advance_linearized")
    import_path = section.model.name if trains and ":" in section.model.name else None
    code = code_fingerprint(SCRIPTS / f"{rule_name}.py", import_path=import_path)
    settings, inputs = SETTINGS[rule_name](section)
    return make_recipe(
        rule_name,
        settings,
        code,
        **{input_name: recipe(maker, name) for input_name, maker in inputs.items()},
    )


def sweep_recipe_text(name):
    """A params function: the recipe of a rule's output for the sweep of its wildcards."""
    return lambda wildcards: canonical(sweep_recipe(name, wildcards.sweep))


@cache
def sweep_recipe(rule_name, name):
    """What decides the output of a rule that reads a sweep; of its cells, which may be many, the recipes' digests."""
    code = code_fingerprint(SCRIPTS / f"{rule_name}.py")
    if rule_name == "plot_sweep":
        return make_recipe(rule_name, CONFIG.figures.model_dump(), code, sweep=sweep_recipe("collect_sweep", name))
    cells = list(SWEEPS[name])
    settings = {"axes": CONFIG.axes_of(name), "seeds": CONFIG.studies[cells[0]].seeds}
    makers = {"transition": "find_transitions"}
    if CONFIG.studies[cells[0]].cone:
        makers["opening"] = "measure_cone_opening"
    inputs = {
        cell: {input_name: digest(canonical(recipe(maker, cell))) for input_name, maker in makers.items()}
        for cell in cells
    }
    return make_recipe(rule_name, settings, code, **inputs)


@cache
def estimates(study_name):
    return StudyEstimates(CONFIG.studies[study_name])


def measured_sides(study):
    """From which sides the end of the first phase is seen: the names of the collected files."""
    return [name for name in ("chaos", "cone") if getattr(study, name)]


def work_of(rule_name, wildcards):
    """What a job needs: of a study's rules and of a tile by its size, of others for seconds."""
    if "study" in wildcards.keys():
        return estimates(wildcards.study).work(rule_name, dict(wildcards.items()))
    return tile_work(CONFIG.phase_diagrams[wildcards.diagram], wildcards.get("tile"))


def speed_of(rule_name):
    """How many times as fast as one core the rule's device is; rules without networks stay on the CPU."""
    return CONFIG.device_speed if rule_name in NETWORK_RULES else 1


def limit_of_time(rule_name):
    """A resource function: minutes, more at each attempt."""
    return lambda wildcards, attempt: work_of(rule_name, wildcards).limit_minutes(speed_of(rule_name)) * attempt


def limit_of_memory(rule_name, more=0):
    """A resource function: megabytes, more at each attempt."""
    return lambda wildcards, attempt: (int(work_of(rule_name, wildcards).memory_mb) + more) * attempt


def settings_of_images(data):
    settings = {"data": data.canonical()}
    if data.source == "image_folder":
        settings["files"] = hashlib.sha256(canonical(data.listing().signature()).encode()).hexdigest()
    if data.source == "embedded_fashion_mnist":
        settings["files"] = hashlib.sha256(EMBEDDED_IMAGES.read_bytes()).hexdigest()
    return settings, {}


def settings_of_examples(diagram):
    return ({"points": diagram.points.model_dump()}, {}) if diagram.points else settings_of_images(diagram.images)


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


def settings_of_transitions(study):
    settings = {
        "learning_rate": study.run_settings()["optimizer"]["learning_rate"],
        "schedule": study.schedule_in_steps(),
        "dtype": study.training.dtype,
        "test_examples": study.data.test_size(),
        "confidence": study.analysis.confidence,
    }
    inputs = {"chaos": "collect_chaos", "cone": "measure_cone"}
    return settings, {name: inputs[name] for name in measured_sides(study)}


def settings_of_transition_figure(study):
    inputs = {"transition": "find_transitions", **settings_of_transitions(study)[1]}
    if study.pointwise:
        inputs["pointwise"] = "collect_pointwise"
    return CONFIG.figures.model_dump(), inputs


def settings_of_cone_opening(study):
    settings = {
        "late_from": study.late_from(),
        "confidence": study.analysis.confidence,
        "base_rate": study.run_settings()["optimizer"]["learning_rate"],
        "schedule": study.schedule_in_steps(),
    }
    return settings, {"cone": "measure_cone"}


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


def settings_of_pointwise_measures(study):
    settings = {
        "steps": study.pointwise.steps,
        "measures": study.pointwise.model_dump(include={"probe_examples", "batches"}),
    }
    return settings, {"checkpoint": "advance"}


def settings_of_figures(input_name, maker):
    return lambda study: (CONFIG.figures.model_dump(), {input_name: maker})


def settings_of_distances(diagram):
    return diagram.model_dump(include={"gamma", "gamma_prime", "widths", "seeds"}), {"tile": "measure_tile"}


def settings_of_orientations(diagram):
    settings = {
        "points": diagram.model_dump(include={"shown_points"})["shown_points"],
        "width": diagram.shown_width,
        "seed": diagram.seeds[0],
        "accuracy": diagram.accuracy(),
    }
    return settings, {"data": "prepare_examples"}


def settings_of_phase_diagram_figures(diagram):
    settings = {
        "style": CONFIG.figures.model_dump(),
        "points": diagram.model_dump(include={"shown_points"})["shown_points"],
    }
    inputs = {
        "regime": "fit_regime",
        "distances": "collect_phase_diagram",
        "orientations": "record_orientations",
    }
    return settings, inputs


def summary_recipe():
    """What decides the summary: of each study and phase diagram the settings, the netCDF files, and the figures."""
    sections = [summarized_study(name, study) for name, study in STUDIES.items()]
    sections += [summarized_diagram(name, diagram) for name, diagram in DIAGRAMS.items()]
    makers = {
        f"results/{name}/{file}.nc": recipe(maker, name)
        for name, study in STUDIES.items()
        for file, maker in summarized_files(study).items()
    }
    makers |= {f"results/phase_diagram/{name}/regime.nc": recipe("fit_regime", name) for name in DIAGRAMS}
    return make_recipe("summarize", {"sections": sections}, code_fingerprint(SCRIPTS / "summarize.py"), **makers)


def summarized_study(name, study):
    published = study.switching.published_test_accuracy if study.switching else {}
    return {
        "name": name,
        "title": f"Study {name}",
        "folder": f"results/{name}",
        "is_diagram": False,
        "files": list(summarized_files(study)),
        "figures": {stem: recipe_digest(maker, name) for stem, maker in summarized_figures(study).items()},
        "settings": {
            "confidence": study.analysis.confidence,
            "late_from": study.late_from(),
            "published": {str(step): accuracy for step, accuracy in published.items()},
        },
    }


def summarized_diagram(name, diagram):
    return {
        "name": name,
        "title": f"Phase diagram {name}",
        "folder": f"results/phase_diagram/{name}",
        "is_diagram": True,
        "files": ["regime"],
        "figures": {"phase_diagram": recipe_digest("plot_phase_diagram", name)},
        "settings": {"seeds": len(diagram.seeds)},
    }


def recipe_digest(rule_name, name):
    """What a figure carries of its recipe."""
    return digest(canonical(recipe(rule_name, name)))


# For each rule: the settings that decide its output, and by which rule each of its inputs is made.
SETTINGS = {
    "prepare_data": lambda study: settings_of_images(study.data),
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
    "find_transitions": settings_of_transitions,
    "measure_cone_opening": settings_of_cone_opening,
    "advance_linearized": lambda study: (study.linearized_settings(), {"checkpoint": "advance"}),
    "measure_linearized": settings_of_linearized_measures,
    "collect_switching": settings_of_switching,
    "measure_pointwise": settings_of_pointwise_measures,
    "collect_pointwise": lambda study: ({"seeds": study.seeds}, {"measures": "measure_pointwise"}),
    "prepare_examples": settings_of_examples,
    "measure_tile": lambda diagram: (diagram.accuracy(), {"data": "prepare_examples"}),
    "collect_phase_diagram": settings_of_distances,
    "fit_regime": lambda diagram: (
        diagram.model_dump(include={"confidence", "critical_slope"}),
        {"distances": "collect_phase_diagram"},
    ),
    "record_orientations": settings_of_orientations,
    "plot_history": settings_of_figures("history", "record_history"),
    "plot_chaos": settings_of_figures("chaos", "collect_chaos"),
    "plot_cone": settings_of_figures("cone", "measure_cone"),
    "plot_transition": settings_of_transition_figure,
    "plot_exponents": settings_of_figures("transition", "find_transitions"),
    "plot_cone_opening": settings_of_figures("opening", "measure_cone_opening"),
    "plot_switching": settings_of_switching_figure,
    "plot_pointwise": settings_of_figures("pointwise", "collect_pointwise"),
    "plot_phase_diagram": settings_of_phase_diagram_figures,
}
