"""Linearised switching: the parent linearised at step s and trained on, measured, then all of it on one grid."""


rule advance_linearized:
    input:
        data="results/{study}/data.nc",
        start=linearized_start,
    output:
        checkpoint=deletable("results/{study}/seed{seed}/{linearized}/step{step}.pt"),
    log:
        "results/{study}/logs/advance_linearized/seed{seed}_{linearized}_step{step}.log",
    benchmark:
        "results/{study}/benchmarks/advance_linearized/seed{seed}_{linearized}_step{step}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("advance_linearized"),
        runtime=limit_of_time("advance_linearized"),
    params:
        recipe=recipe_text("advance_linearized"),
    script:
        "../scripts/advance_linearized.py"


rule measure_linearized:
    input:
        data="results/{study}/data.nc",
        parent=measured_checkpoints(PARENT),
        linearized=measured_checkpoints(None),
    output:
        measures="results/{study}/seed{seed}/{linearized}/linearized.nc",
    log:
        "results/{study}/logs/measure_linearized/seed{seed}_{linearized}.log",
    benchmark:
        "results/{study}/benchmarks/measure_linearized/seed{seed}_{linearized}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("measure_linearized"),
        runtime=limit_of_time("measure_linearized"),
    params:
        recipe=recipe_text("measure_linearized"),
    script:
        "../scripts/measure_linearized.py"


rule collect_switching:
    input:
        measures=linearized_measures,
    output:
        switching="results/{study}/switching.nc",
    log:
        "results/{study}/logs/collect_switching.log",
    benchmark:
        "results/{study}/benchmarks/collect_switching.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("collect_switching"),
    script:
        "../scripts/collect_switching.py"
