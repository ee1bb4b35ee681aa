"""The chaos effect: each branch against its parent, then all of them on one grid."""


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
    params:
        recipe=recipe_text("compare_branch"),
    script:
        "../scripts/compare_branch.py"


def comparisons(wildcards):
    study = CONFIG.studies[wildcards.study]
    return [
        f"results/{wildcards.study}/seed{seed}/{branch.name}/comparison.nc"
        for seed in study.seeds
        for branch in branches_of(study)
    ]


rule collect_chaos:
    input:
        comparisons=comparisons,
    output:
        chaos="results/{study}/chaos.nc",
    log:
        "results/{study}/logs/collect_chaos.log",
    benchmark:
        "results/{study}/benchmarks/collect_chaos.tsv"
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("collect_chaos"),
    script:
        "../scripts/collect_chaos.py"
