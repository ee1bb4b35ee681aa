"""What the jobs took, when all else is done."""


rule collect_resources:
    input:
        rules.figures.input,
    output:
        html=report(
            "results/resources.html",
            caption="../report/resources.rst",
            category="Resources",
            labels={"figure": "Time and memory of the jobs"},
        ),
        table="results/resources.tsv",
    log:
        "results/logs/collect_resources.log",
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=canonical(
            make_recipe(
                "collect_resources", {"folders": result_folders()}, code_fingerprint(SCRIPTS / "collect_resources.py")
            )
        ),
    script:
        "../scripts/collect_resources.py"
