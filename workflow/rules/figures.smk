"""Figures: drawn from the collected netCDF files alone, each as PNG (in the report) and SVG."""


rule plot_history:
    input:
        history="results/{study}/history.nc",
    output:
        history=report(
            "results/{study}/figures/history.png",
            caption="../report/history.rst",
            category="{study}",
            labels={"figure": "00 Training"},
        ),
        history_svg="results/{study}/figures/history.svg",
    log:
        "results/{study}/logs/plot_history.log",
    benchmark:
        "results/{study}/benchmarks/plot_history.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_history"),
    script:
        "../scripts/plot_history.py"


rule plot_chaos:
    input:
        chaos="results/{study}/chaos.nc",
    output:
        chaos=report(
            "results/{study}/figures/chaos_{kind}.png",
            caption="../report/chaos.rst",
            category="{study}",
            labels={"figure": "01 Chaos effect (Fig. 3)", "perturbation": "{kind}"},
        ),
        chaos_svg="results/{study}/figures/chaos_{kind}.svg",
        barrier=report(
            "results/{study}/figures/barrier_{kind}.png",
            caption="../report/barrier.rst",
            category="{study}",
            labels={"figure": "02 Barrier against t0", "perturbation": "{kind}"},
        ),
        barrier_svg="results/{study}/figures/barrier_{kind}.svg",
        growth=report(
            "results/{study}/figures/growth_{kind}.png",
            caption="../report/growth.rst",
            category="{study}",
            labels={
                "figure": "03 Growth of the perturbation",
                "perturbation": "{kind}",
            },
        ),
        growth_svg="results/{study}/figures/growth_{kind}.svg",
    log:
        "results/{study}/logs/plot_chaos_{kind}.log",
    benchmark:
        "results/{study}/benchmarks/plot_chaos_{kind}.tsv"
    wildcard_constraints:
        kind="gaussian|gradient",
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_chaos"),
    script:
        "../scripts/plot_chaos.py"


rule plot_cone:
    input:
        cone="results/{study}/cone.nc",
    output:
        distance_matrix=report(
            "results/{study}/figures/distance_matrix.png",
            caption="../report/distance_matrix.rst",
            category="{study}",
            labels={"figure": "04 Kernel distances (Fig. 4)"},
        ),
        distance_matrix_svg="results/{study}/figures/distance_matrix.svg",
        reference_distance=report(
            "results/{study}/figures/reference_distance.png",
            caption="../report/reference_distance.rst",
            category="{study}",
            labels={"figure": "05 Distance from reference steps (Fig. 5a)"},
        ),
        reference_distance_svg="results/{study}/figures/reference_distance.svg",
        interval_distance=report(
            "results/{study}/figures/interval_distance.png",
            caption="../report/interval_distance.rst",
            category="{study}",
            labels={"figure": "06 Distance over intervals (Fig. 5b)"},
        ),
        interval_distance_svg="results/{study}/figures/interval_distance.svg",
        projection=report(
            "results/{study}/figures/projection.png",
            caption="../report/projection.rst",
            category="{study}",
            labels={"figure": "07 Projection (for Fig. 5c)"},
        ),
        projection_svg="results/{study}/figures/projection.svg",
        kernel_scale=report(
            "results/{study}/figures/kernel_scale.png",
            caption="../report/kernel_scale.rst",
            category="{study}",
            labels={"figure": "08 Scale, alignment, rank"},
        ),
        kernel_scale_svg="results/{study}/figures/kernel_scale.svg",
    log:
        "results/{study}/logs/plot_cone.log",
    benchmark:
        "results/{study}/benchmarks/plot_cone.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_cone"),
    script:
        "../scripts/plot_cone.py"


rule plot_cone_opening:
    input:
        opening="results/{study}/cone_opening.nc",
    output:
        cone_opening=report(
            "results/{study}/figures/cone_opening.png",
            caption="../report/cone_opening.rst",
            category="{study}",
            labels={"figure": "09 Opening of the cone"},
        ),
        cone_opening_svg="results/{study}/figures/cone_opening.svg",
    log:
        "results/{study}/logs/plot_cone_opening.log",
    benchmark:
        "results/{study}/benchmarks/plot_cone_opening.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_cone_opening"),
    script:
        "../scripts/plot_cone_opening.py"


rule plot_transition:
    input:
        unpack(sides),
        unpack(companions),
        transition="results/{study}/transition.nc",
    output:
        transition=report(
            "results/{study}/figures/transition.png",
            caption="../report/transition.rst",
            category="{study}",
            labels={"figure": "11 Where the phases meet"},
        ),
        transition_svg="results/{study}/figures/transition.svg",
    log:
        "results/{study}/logs/plot_transition.log",
    benchmark:
        "results/{study}/benchmarks/plot_transition.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_transition"),
    script:
        "../scripts/plot_transition.py"


rule plot_exponents:
    input:
        transition="results/{study}/transition.nc",
    output:
        exponents=report(
            "results/{study}/figures/exponents_{kind}.png",
            caption="../report/exponents.rst",
            category="{study}",
            labels={"figure": "12 Growth exponents", "perturbation": "{kind}"},
        ),
        exponents_svg="results/{study}/figures/exponents_{kind}.svg",
    log:
        "results/{study}/logs/plot_exponents_{kind}.log",
    benchmark:
        "results/{study}/benchmarks/plot_exponents_{kind}.tsv"
    wildcard_constraints:
        kind="gaussian|gradient",
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_exponents"),
    script:
        "../scripts/plot_exponents.py"


rule plot_switching:
    input:
        switching="results/{study}/switching.nc",
    output:
        switching=report(
            "results/{study}/figures/switching.png",
            caption="../report/switching.rst",
            category="{study}",
            labels={"figure": "13 Linearised switching (Fig. 6)"},
        ),
        switching_svg="results/{study}/figures/switching.svg",
    log:
        "results/{study}/logs/plot_switching.log",
    benchmark:
        "results/{study}/benchmarks/plot_switching.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_switching"),
    script:
        "../scripts/plot_switching.py"


rule plot_pointwise:
    input:
        pointwise="results/{study}/pointwise.nc",
    output:
        pointwise=report(
            "results/{study}/figures/pointwise.png",
            caption="../report/pointwise.rst",
            category="{study}",
            labels={"figure": "10 Gradient coherence and sharpness"},
        ),
        pointwise_svg="results/{study}/figures/pointwise.svg",
    log:
        "results/{study}/logs/plot_pointwise.log",
    benchmark:
        "results/{study}/benchmarks/plot_pointwise.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_pointwise"),
    script:
        "../scripts/plot_pointwise.py"


rule plot_phase_diagram:
    input:
        regime="results/phase_diagram/{diagram}/regime.nc",
        distances="results/phase_diagram/{diagram}/relative_distance.nc",
        orientations="results/phase_diagram/{diagram}/orientations.nc",
    output:
        phase_diagram=report(
            "results/phase_diagram/{diagram}/figures/phase_diagram.png",
            caption="../report/phase_diagram.rst",
            category="phase diagram {diagram}",
            labels={"figure": "1 Phase diagram"},
        ),
        phase_diagram_svg="results/phase_diagram/{diagram}/figures/phase_diagram.svg",
        relative_distance=report(
            "results/phase_diagram/{diagram}/figures/relative_distance.png",
            caption="../report/relative_distance.rst",
            category="phase diagram {diagram}",
            labels={"figure": "2 Relative distance against width"},
        ),
        relative_distance_svg="results/phase_diagram/{diagram}/figures/relative_distance.svg",
        orientations=report(
            "results/phase_diagram/{diagram}/figures/orientations.png",
            caption="../report/orientations.rst",
            category="phase diagram {diagram}",
            labels={"figure": "3 Orientations of neurons"},
        ),
        orientations_svg="results/phase_diagram/{diagram}/figures/orientations.svg",
        learned_functions=report(
            "results/phase_diagram/{diagram}/figures/learned_functions.png",
            caption="../report/learned_functions.rst",
            category="phase diagram {diagram}",
            labels={"figure": "4 Learned functions"},
        ),
        learned_functions_svg="results/phase_diagram/{diagram}/figures/learned_functions.svg",
    log:
        "results/phase_diagram/{diagram}/logs/plot_phase_diagram.log",
    benchmark:
        "results/phase_diagram/{diagram}/benchmarks/plot_phase_diagram.tsv"
    localrule: True
    conda:
        "../../envs/twophase.yaml"
    params:
        recipe=recipe_text("plot_phase_diagram"),
    script:
        "../scripts/plot_phase_diagram.py"


rule figures:
    input:
        history_results(),
        chaos_results(),
        cone_results(),
        transition_results(),
        switching_results(),
        pointwise_results(),
        sweep_results(),
        phase_diagram_results(),


rule chaos:
    input:
        chaos_results(),


rule cone:
    input:
        cone_results(),


rule transition:
    input:
        transition_results(),


rule switching:
    input:
        switching_results(),


rule pointwise:
    input:
        pointwise_results(),


rule sweep:
    input:
        sweep_results(),


rule phase_diagram:
    input:
        phase_diagram_results(),
