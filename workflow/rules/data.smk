"""Images: fetched where they must be, and prepared once for each study."""


rule download_data:
    output:
        verified="results/downloads/{source}/verified.json",
    log:
        "results/downloads/logs/{source}.log",
    wildcard_constraints:
        source="cifar10|cifar100|mnist|fashion_mnist",
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=lambda wildcards: canonical(
            make_recipe(
                "download_data",
                {"source": wildcards.source},
                code_fingerprint(SCRIPTS / "download_data.py"),
            )
        ),
    script:
        "../scripts/download_data.py"


rule prepare_data:
    input:
        source=image_source,
    output:
        data="results/{study}/data.nc",
    log:
        "results/{study}/logs/prepare_data.log",
    benchmark:
        "results/{study}/benchmarks/prepare_data.tsv"
    conda:
        "../../envs/twophase.yaml"
    resources:
        mem_mb=limit_of_memory("prepare_data"),
        runtime=limit_of_time("prepare_data"),
    params:
        recipe=recipe_text("prepare_data"),
    script:
        "../scripts/prepare_data.py"
