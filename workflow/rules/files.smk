"""Which files a study has, and which of them a job reads."""

import os

from twophase.trajectories import (
    PARENT,
    Switch,
    anchors_from,
    checkpoint_at_or_below,
    grid_of_branches,
    parse_trajectory,
    start_of_segment,
)

CHAOS_FIGURES = ("chaos", "barrier", "growth")
PHASE_DIAGRAM_FIGURES = (
    "phase_diagram",
    "relative_distance",
    "orientations",
    "learned_functions",
)
CONE_FIGURES = (
    "distance_matrix",
    "reference_distance",
    "interval_distance",
    "projection",
    "kernel_scale",
    "cone_opening",
)

# What the summary reads of a study that has one of the sections: netCDF file, the rule that makes it, the sections.
SUMMARIZED_FILES = (
    ("chaos", "collect_chaos", ("chaos",)),
    ("cone", "measure_cone", ("cone",)),
    ("cone_opening", "measure_cone_opening", ("cone",)),
    ("transition", "find_transitions", ("chaos", "cone")),
    ("switching", "collect_switching", ("switching",)),
    ("pointwise", "collect_pointwise", ("pointwise",)),
)
# The figures that its claims link to: stem ("_kind" where there is one for each), the rule that draws it, the sections.
SUMMARIZED_FIGURES = (
    ("transition", "plot_transition", ("chaos", "cone")),
    ("barrier_kind", "plot_chaos", ("chaos",)),
    ("chaos_kind", "plot_chaos", ("chaos",)),
    ("exponents_kind", "plot_exponents", ("chaos",)),
    ("reference_distance", "plot_cone", ("cone",)),
    ("interval_distance", "plot_cone", ("cone",)),
    ("cone_opening", "plot_cone_opening", ("cone",)),
    ("switching", "plot_switching", ("switching",)),
    ("pointwise", "plot_pointwise", ("pointwise",)),
)
SUMMARIZED_OF_DIAGRAM = ("regime.nc", "figures/phase_diagram.png")


def deletable(path):
    """A checkpoint that is deleted when all that reads it is done, unless the config says to keep it."""
    return path if CONFIG.keep_checkpoints else temp(path)


def checkpoint_path(study_name, seed, trajectory, step):
    return f"results/{study_name}/seed{seed}/{trajectory}/step{step}.pt"


def start_checkpoint(wildcards):
    """The checkpoint from which a step is reached: none for a parent's step 0."""
    step = int(wildcards.step)
    if wildcards.trajectory == PARENT and step == 0:
        return []
    every = CONFIG.studies[wildcards.study].training.checkpoint_every
    return [
        checkpoint_path(
            wildcards.study,
            wildcards.seed,
            *start_of_segment(wildcards.trajectory, step, every),
        )
    ]


def stored_checkpoint(study_name, seed, trajectory, step):
    """The checkpoint from which a job replays a step: the step itself if it is an anchor."""
    every = CONFIG.studies[study_name].training.checkpoint_every
    return checkpoint_path(study_name, seed, *checkpoint_at_or_below(trajectory, step, every))


def history_steps(study):
    """The anchor steps of the parent, and the run's end."""
    return anchors_from(0, study.training.checkpoint_every, study.length())


def branches_of(study):
    grid = study.chaos
    return grid_of_branches(grid.perturbation_steps, grid.kinds, grid.relative_norms, grid.draws)


def image_source(wildcards):
    """The file that stands for a study's raw images; an image folder's files are in the recipe."""
    return source_files(CONFIG.studies[wildcards.study].data)


def example_source(wildcards):
    """The file that stands for the raw images of a phase diagram's examples; none for points."""
    images = CONFIG.phase_diagrams[wildcards.diagram].images
    return source_files(images) if images else []


def source_files(data):
    if data.source == "image_folder":
        return []
    if data.source == "embedded_fashion_mnist":
        return [ancient(os.path.relpath(EMBEDDED_IMAGES))]  # its digest is in the recipe
    return [f"results/downloads/{data.source}/verified.json"]


def parent_checkpoints(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [
        checkpoint_path(wildcards.study, seed, PARENT, step) for seed in study.seeds for step in history_steps(study)
    ]


def comparison_checkpoints(trajectory):
    """An input function: for each t1 above t0 the checkpoint from which the trajectory is replayed to it."""

    def checkpoints(wildcards):
        study = CONFIG.studies[wildcards.study]
        t0 = parse_trajectory(wildcards.trajectory).t0
        name = trajectory or wildcards.trajectory
        return [
            stored_checkpoint(wildcards.study, wildcards.seed, name, t1)
            for t1 in study.chaos.comparison_steps
            if t1 > t0
        ]

    return checkpoints


def checkpoint_before_branch(wildcards):
    t0 = parse_trajectory(wildcards.trajectory).t0
    return stored_checkpoint(wildcards.study, wildcards.seed, PARENT, t0)


def linearized_start(wildcards):
    """The checkpoint from which a step of a linearised run is reached; at or below the switch the parent's."""
    every = CONFIG.studies[wildcards.study].training.checkpoint_every
    start = start_of_segment(wildcards.linearized, int(wildcards.step), every)
    return checkpoint_path(wildcards.study, wildcards.seed, *start)


def measured_checkpoints(trajectory):
    """An input function: for each measured step of a linearised run the checkpoint from which it is replayed."""

    def checkpoints(wildcards):
        study = CONFIG.studies[wildcards.study]
        switch_step = parse_trajectory(wildcards.linearized).switch_step
        steps = anchors_from(switch_step, study.training.checkpoint_every, study.length())
        name = trajectory or wildcards.linearized
        return [stored_checkpoint(wildcards.study, wildcards.seed, name, step) for step in steps]

    return checkpoints


def linearized_measures(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [
        f"results/{wildcards.study}/seed{seed}/{Switch(step, rate).name}/linearized.nc"
        for seed in study.seeds
        for rate in study.linearized_rates()
        for step in study.switching.switch_steps
    ]


def pointwise_starts(wildcards):
    """For each measured step the checkpoint at or below it, from which, or from the step before, it is replayed."""
    steps = CONFIG.studies[wildcards.study].pointwise.steps
    return [stored_checkpoint(wildcards.study, wildcards.seed, PARENT, step) for step in steps]


def pointwise_measures(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [f"results/{wildcards.study}/seed{seed}/pointwise.nc" for seed in study.seeds]


def comparisons(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [
        f"results/{wildcards.study}/seed{seed}/{branch.name}/comparison.nc"
        for seed in study.seeds
        for branch in branches_of(study)
    ]


def kernels(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [
        f"results/{wildcards.study}/seed{seed}/entk/step{step}.nc"
        for seed in study.seeds
        for step in study.cone.kernel_steps
    ]


def networks_of_tile(wildcards):
    """A params function: the axes of a tile's networks."""
    return canonical(CONFIG.phase_diagrams[wildcards.diagram].tiles()[wildcards.tile])


def tile_files(wildcards):
    names = CONFIG.phase_diagrams[wildcards.diagram].tiles()
    return [f"results/phase_diagram/{wildcards.diagram}/tiles/{name}.nc" for name in names]


def cell_files(file_name, section=None):
    """An input function: a file of each cell of a sweep; none where the cells lack a section of the config."""

    def files(wildcards):
        return [
            f"results/{cell}/{file_name}"
            for cell in SWEEPS[wildcards.sweep]
            if section is None or getattr(CONFIG.studies[cell], section)
        ]

    return files


def figure_files(study_name, stems):
    return [f"results/{study_name}/figures/{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")]


# What a target makes: the collected netCDF files too, so that one that was deleted is made anew.


def history_results():
    return [path for name in STUDIES for path in (f"results/{name}/history.nc", *figure_files(name, ["history"]))]


def chaos_results():
    return [
        path
        for name, study in STUDIES.items()
        if study.chaos
        for stems in [[f"{stem}_{kind}" for stem in CHAOS_FIGURES for kind in study.chaos.kinds]]
        for path in (f"results/{name}/chaos.nc", *figure_files(name, stems))
    ]


def cone_results():
    return [
        path
        for name, study in STUDIES.items()
        if study.cone
        for path in (
            f"results/{name}/cone.nc",
            f"results/{name}/cone_opening.nc",
            *figure_files(name, CONE_FIGURES),
        )
    ]


def sides(wildcards):
    """An input function: the collected file of each side from which the first phase's end is seen, by its name."""
    names = measured_sides(CONFIG.studies[wildcards.study])
    return {name: f"results/{wildcards.study}/{name}.nc" for name in names}


def companions(wildcards):
    """An input function: the point-wise measures, if the study has them, by their name."""
    has_them = CONFIG.studies[wildcards.study].pointwise
    return {"pointwise": f"results/{wildcards.study}/pointwise.nc"} if has_them else {}


def transition_results():
    return [
        path
        for name, study in STUDIES.items()
        if measured_sides(study)
        for kinds in [study.chaos.kinds if study.chaos else []]
        for stems in [["transition", *(f"exponents_{kind}" for kind in kinds)]]
        for path in (f"results/{name}/transition.nc", *figure_files(name, stems))
    ]


def switching_results():
    return [
        path
        for name, study in STUDIES.items()
        if study.switching
        for path in (f"results/{name}/switching.nc", *figure_files(name, ["switching"]))
    ]


def pointwise_results():
    return [
        path
        for name, study in STUDIES.items()
        if study.pointwise
        for path in (f"results/{name}/pointwise.nc", *figure_files(name, ["pointwise"]))
    ]


def phase_diagram_results():
    return [
        path
        for name in DIAGRAMS
        for path in (
            *(f"results/phase_diagram/{name}/{stem}.nc" for stem in ("relative_distance", "regime", "orientations")),
            *figure_files(f"phase_diagram/{name}", PHASE_DIAGRAM_FIGURES),
        )
    ]


def has_some(study, sections):
    return any(getattr(study, section) for section in sections)


def summarized_files(study):
    """For each netCDF file of a study that the summary reads, the rule that makes it."""
    return {file: maker for file, maker, sections in SUMMARIZED_FILES if has_some(study, sections)}


def summarized_figures(study):
    """For each figure of a study that the summary shows, the rule that draws it."""
    figures = {}
    for stem, maker, sections in SUMMARIZED_FIGURES:
        if has_some(study, sections):
            kinds = study.chaos.kinds if stem.endswith("_kind") else [""]
            figures |= {stem.replace("_kind", f"_{kind}" if kind else ""): maker for kind in kinds}
    return figures


def summary_inputs():
    studies = [
        path
        for name, study in STUDIES.items()
        for path in (
            *(f"results/{name}/{file}.nc" for file in summarized_files(study)),
            *(f"results/{name}/figures/{stem}.png" for stem in summarized_figures(study)),
        )
    ]
    diagrams = [f"results/phase_diagram/{name}/{file}" for name in DIAGRAMS for file in SUMMARIZED_OF_DIAGRAM]
    return studies + diagrams


def sweep_results():
    return [
        path
        for name in CONFIG.selected_sweeps()
        for path in (f"results/{name}/sweep.nc", *figure_files(name, ["sweep"]))
    ]


def result_folders():
    names = [*STUDIES, *CONFIG.selected_sweeps()]
    return [f"results/{name}" for name in names] + [f"results/phase_diagram/{name}" for name in DIAGRAMS]
