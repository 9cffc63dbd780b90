# Importance-weighted bounds, KL per layer, active units, samples and reconstructions of one trained run.


rule evaluate:
    input:
        data="resources/{dataset}/data.json",
        arrays=ancient("resources/{dataset}/data.safetensors"),
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
        parts=part_files,
    output:
        summary=f"{RUN}/evaluation.json",
        arrays=f"{RUN}/evaluation.safetensors",
    log:
        "results/{experiments}/logs/evaluate/{dataset}/{architecture}/{model}/seed{seed}.log",
    benchmark:
        "results/{experiments}/benchmarks/evaluate/{dataset}/{architecture}/{model}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=more_each_time(8000),
        runtime=24 * 60,
    params:
        settings=evaluation_settings,
    shell:
        "python -m biva evaluate {wildcards.experiments}"
        " {wildcards.dataset}/{wildcards.architecture}/{wildcards.model}/seed{wildcards.seed} > {log} 2>&1"


# With `evaluation_jobs` above 1: one share of the importance samples. They are kept beside the run's checkpoint, where a
# killed job finds them again, and `evaluate` all of them; the output says no more than that they are there.
rule evaluate_part:
    input:
        data="resources/{dataset}/data.json",
        arrays=ancient("resources/{dataset}/data.safetensors"),
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    output:
        temp(touch(f"{RUN}/evaluation_parts/{{part}}of{{parts}}")),
    log:
        "results/{experiments}/logs/evaluate/{dataset}/{architecture}/{model}/seed{seed}/{part}of{parts}.log",
    benchmark:
        "results/{experiments}/benchmarks/evaluate/{dataset}/{architecture}/{model}/seed{seed}/{part}of{parts}.tsv"
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=8000,
        runtime=24 * 60,
    params:
        settings=evaluation_settings,
    shell:
        "python -m biva evaluate {wildcards.experiments}"
        " {wildcards.dataset}/{wildcards.architecture}/{wildcards.model}/seed{wildcards.seed}"
        " --part {wildcards.part}/{wildcards.parts} > {log} 2>&1"
