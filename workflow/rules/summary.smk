"""The claims of all selected studies and phase diagrams on one page, when all else is done."""


rule summarize:
    input:
        summary_inputs(),
    output:
        html=report(
            "results/summary.html",
            caption="../report/summary.rst",
            category="Claims",
            labels={"figure": "What holds"},
        ),
        table="results/summary.tsv",
    log:
        "results/logs/summarize.log",
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=lambda wildcards: canonical(summary_recipe()),
    script:
        "../scripts/summarize.py"
