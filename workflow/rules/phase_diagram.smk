"""The phase diagram of two-layer networks: tiles of the map, the map, its fits, and single neurons."""


rule prepare_examples:
    input:
        source=example_source,
    output:
        data="results/phase_diagram/{diagram}/data.nc",
    log:
        "results/phase_diagram/{diagram}/logs/prepare_examples.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/prepare_examples.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("prepare_examples"),
    script:
        "../scripts/prepare_examples.py"


# A tile whose networks change keeps those that it has: `update` leaves the file until the job replaces it whole.
rule measure_tile:
    input:
        data="results/phase_diagram/{diagram}/data.nc",
    output:
        tile=update("results/phase_diagram/{diagram}/tiles/{tile}.nc"),
    log:
        "results/phase_diagram/{diagram}/logs/measure_tile/{tile}.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/measure_tile/{tile}.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        flow_memory_mb=FLOW_MEMORY_MB,
        mem_mb=limit_of_memory("measure_tile", more=FLOW_MEMORY_MB),
        runtime=limit_of_time("measure_tile"),
    params:
        recipe=recipe_text("measure_tile"),
        networks=networks_of_tile,
    script:
        "../scripts/measure_tile.py"


rule collect_phase_diagram:
    input:
        tiles=tile_files,
    output:
        distances="results/phase_diagram/{diagram}/relative_distance.nc",
    log:
        "results/phase_diagram/{diagram}/logs/collect_phase_diagram.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/collect_phase_diagram.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("collect_phase_diagram"),
    script:
        "../scripts/collect_phase_diagram.py"


rule fit_regime:
    input:
        distances="results/phase_diagram/{diagram}/relative_distance.nc",
    output:
        regime="results/phase_diagram/{diagram}/regime.nc",
    log:
        "results/phase_diagram/{diagram}/logs/fit_regime.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/fit_regime.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("fit_regime"),
    script:
        "../scripts/fit_regime.py"


rule record_orientations:
    input:
        data="results/phase_diagram/{diagram}/data.nc",
    output:
        orientations="results/phase_diagram/{diagram}/orientations.nc",
    log:
        "results/phase_diagram/{diagram}/logs/record_orientations.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/record_orientations.tsv"
    conda:
        "../../envs/twophase.yaml"
    threads: 1
    resources:
        mem_mb=limit_of_memory("record_orientations", more=FLOW_MEMORY_MB),
        runtime=limit_of_time("record_orientations"),
    params:
        recipe=recipe_text("record_orientations"),
    script:
        "../scripts/record_orientations.py"
