"""Trajectories: parents and branches, from one anchor step to the next."""


rule advance:
    input:
        data="results/{study}/data.nc",
        start=start_checkpoint,
    output:
        checkpoint="results/{study}/seed{seed}/{trajectory}/step{step}.pt",
    log:
        "results/{study}/logs/advance/seed{seed}_{trajectory}_step{step}.log",
    benchmark:
        "results/{study}/benchmarks/advance/seed{seed}_{trajectory}_step{step}.tsv"
    wildcard_constraints:
        trajectory=PARENT,
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("advance"),
        runtime=limit_of_time("advance"),
    params:
        recipe=recipe_text("advance"),
    script:
        "../scripts/advance.py"


use rule advance as advance_branch with:
    output:
        checkpoint=deletable("results/{study}/seed{seed}/{trajectory}/step{step}.pt"),
    wildcard_constraints:
        trajectory=BRANCH_PATTERN,


rule record_history:
    input:
        data="results/{study}/data.nc",
        checkpoints=parent_checkpoints,
    output:
        history="results/{study}/history.nc",
    log:
        "results/{study}/logs/record_history.log",
    benchmark:
        "results/{study}/benchmarks/record_history.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=limit_of_memory("record_history"),
        runtime=limit_of_time("record_history"),
    params:
        recipe=recipe_text("record_history"),
    script:
        "../scripts/record_history.py"
