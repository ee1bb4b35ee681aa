"""Sweeps: what the cells say about themselves, on one grid, and its figure."""


rule collect_sweep:
    input:
        transitions=cell_files("transition.nc"),
        openings=cell_files("cone_opening.nc", section="cone"),
    output:
        sweep="results/{sweep}/sweep.nc",
    log:
        "results/{sweep}/logs/collect_sweep.log",
    benchmark:
        "results/{sweep}/benchmarks/collect_sweep.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=sweep_recipe_text("collect_sweep"),
    script:
        "../scripts/collect_sweep.py"


rule plot_sweep:
    input:
        sweep="results/{sweep}/sweep.nc",
    output:
        sweep=report(
            "results/{sweep}/figures/sweep.png",
            caption="../report/sweep.rst",
            category="{sweep}",
            labels={"figure": "Sweep"},
        ),
        sweep_svg="results/{sweep}/figures/sweep.svg",
    log:
        "results/{sweep}/logs/plot_sweep.log",
    benchmark:
        "results/{sweep}/benchmarks/plot_sweep.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=sweep_recipe_text("plot_sweep"),
    script:
        "../scripts/plot_sweep.py"
