"""Point-wise companions of the transitions: gradient noise and sharpness along each parent, then side by side."""


rule measure_pointwise:
    input:
        data="results/{study}/data.nc",
        starts=pointwise_starts,
    output:
        measures="results/{study}/seed{seed}/pointwise.nc",
    log:
        "results/{study}/logs/measure_pointwise/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/measure_pointwise/seed{seed}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("measure_pointwise"),
        runtime=limit_of_time("measure_pointwise"),
    params:
        recipe=recipe_text("measure_pointwise"),
    script:
        "../scripts/measure_pointwise.py"


rule collect_pointwise:
    input:
        measures=pointwise_measures,
    output:
        pointwise="results/{study}/pointwise.nc",
    log:
        "results/{study}/logs/collect_pointwise.log",
    benchmark:
        "results/{study}/benchmarks/collect_pointwise.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("collect_pointwise"),
    script:
        "../scripts/collect_pointwise.py"
