"""The chaos effect: each branch against its parent, then all of them on one grid."""


rule compare_branch:
    input:
        data="results/{study}/data.nc",
        before=checkpoint_before_branch,
        parent=comparison_checkpoints(PARENT),
        branch=comparison_checkpoints(None),
    output:
        comparison="results/{study}/seed{seed}/{trajectory}/comparison.nc",
    log:
        "results/{study}/logs/compare_branch/seed{seed}_{trajectory}.log",
    benchmark:
        "results/{study}/benchmarks/compare_branch/seed{seed}_{trajectory}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("compare_branch"),
        runtime=limit_of_time("compare_branch"),
    params:
        recipe=recipe_text("compare_branch"),
    script:
        "../scripts/compare_branch.py"


rule collect_chaos:
    input:
        comparisons=comparisons,
    output:
        chaos="results/{study}/chaos.nc",
    log:
        "results/{study}/logs/collect_chaos.log",
    benchmark:
        "results/{study}/benchmarks/collect_chaos.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("collect_chaos"),
    script:
        "../scripts/collect_chaos.py"
