"""twophase: how a network's training passes from chaos to order.

Targets: all, figures, chaos, cone, transition, switching, pointwise, sweep, phase_diagram.
"""


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/files.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/trajectories.smk"
include: "workflow/rules/chaos.smk"
include: "workflow/rules/cone.smk"
include: "workflow/rules/transition.smk"
include: "workflow/rules/switching.smk"
include: "workflow/rules/pointwise.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/phase_diagram.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/summary.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/records.smk"
include: "workflow/rules/start.smk"


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.summarize.output,
        rules.collect_resources.output,
