# Importance-weighted bounds, KL per layer, active units, samples and reconstructions of one trained run.


rule evaluate:
    input:
        data=f"{DATA}/data.json",
        arrays=ancient(f"{DATA}/data.safetensors"),
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
        parts=part_files,
    output:
        summary=f"{RUN}/evaluation.json",
        arrays=f"{RUN}/evaluation.safetensors",
    log:
        f"{SET}/logs/evaluate/{NAME}.log",
    benchmark:
        f"{SET}/benchmarks/evaluate/{NAME}.tsv"
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=more_each_time(8000),
        runtime=24 * 60,
    params:
        settings=evaluation_digest,
        run=NAME,
        data=subpath(input.data, parent=True),
        folder=subpath(input.summary, parent=True),
        part="",
    shell:
        call_biva(
            "evaluate {wildcards.experiments} {params.run} --data {params.data} --run {params.folder} {params.part}"
            " > {log} 2>&1"
        )


# With `evaluation_jobs` above 1: one share of the importance samples. They are kept beside the run's checkpoint, where a
# killed job finds them again, and `evaluate` all of them; the output says no more than that they are there.
use rule evaluate as evaluate_part with:
    input:
        data=f"{DATA}/data.json",
        arrays=ancient(f"{DATA}/data.safetensors"),
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    output:
        touch(f"{RUN}/evaluation_parts/{{part}}of{{parts}}"),
    log:
        f"{SET}/logs/evaluate/{NAME}/{{part}}of{{parts}}.log",
    benchmark:
        f"{SET}/benchmarks/evaluate/{NAME}/{{part}}of{{parts}}.tsv"
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    params:
        settings=evaluation_digest,
        run=NAME,
        data=subpath(input.data, parent=True),
        folder=subpath(input.summary, parent=True),
        part="--part {part}/{parts}",
