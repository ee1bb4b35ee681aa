"""The cone effect: the eNTK at steps of the parents, the geometry of each parent's kernels, their cone."""


rule compute_entk:
    input:
        data="results/{study}/data.nc",
        start=lambda wildcards: stored_checkpoint(wildcards.study, wildcards.seed, PARENT, int(wildcards.step)),
    output:
        kernel="results/{study}/seed{seed}/entk/step{step}.nc",
    log:
        "results/{study}/logs/compute_entk/seed{seed}_step{step}.log",
    benchmark:
        "results/{study}/benchmarks/compute_entk/seed{seed}_step{step}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        entk_memory_mb=ENTK_MEMORY_MB,
        mem_mb=limit_of_memory("compute_entk", more=ENTK_MEMORY_MB),
        runtime=limit_of_time("compute_entk"),
    params:
        recipe=recipe_text("compute_entk"),
    script:
        "../scripts/compute_entk.py"


rule measure_cone:
    input:
        kernels=kernels,
    output:
        cone="results/{study}/cone.nc",
    log:
        "results/{study}/logs/measure_cone.log",
    benchmark:
        "results/{study}/benchmarks/measure_cone.tsv"
    conda:
        "../../envs/twophase.yaml"
    resources:
        mem_mb=limit_of_memory("measure_cone"),
        runtime=limit_of_time("measure_cone"),
    params:
        recipe=recipe_text("measure_cone"),
    script:
        "../scripts/measure_cone.py"


rule measure_cone_opening:
    input:
        cone="results/{study}/cone.nc",
    output:
        opening="results/{study}/cone_opening.nc",
    log:
        "results/{study}/logs/measure_cone_opening.log",
    benchmark:
        "results/{study}/benchmarks/measure_cone_opening.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("measure_cone_opening"),
    script:
        "../scripts/measure_cone_opening.py"
