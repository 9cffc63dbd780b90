# Importance-weighted bounds, KL per layer, active units, samples and reconstructions of one trained run.


rule evaluate:
    input:
        data="resources/{dataset}/data.json",
        arrays=ancient("resources/{dataset}/data.safetensors"),
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
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
