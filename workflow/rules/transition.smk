"""Where the phases meet: estimates from what the chaos and the cone effect measured."""


rule find_transitions:
    input:
        unpack(sides),
    output:
        transition="results/{study}/transition.nc",
    log:
        "results/{study}/logs/find_transitions.log",
    benchmark:
        "results/{study}/benchmarks/find_transitions.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("find_transitions"),
    script:
        "../scripts/find_transitions.py"
