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
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        gpu=1,
    params:
        recipe=recipe_text("advance"),
    script:
        "../scripts/advance.py"


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
    params:
        recipe=recipe_text("record_history"),
    script:
        "../scripts/record_history.py"
