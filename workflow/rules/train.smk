# One run per dataset, architecture, model and seed. What triggers it again: profiles/default/config.yaml.


rule train:
    input:
        data=f"{DATA}/data.json",
        # The fingerprint in data.json tells whether the arrays changed; their age tells nothing.
        arrays=ancient(f"{DATA}/data.safetensors"),
    output:
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    log:
        f"{SET}/logs/train/{NAME}.log",
    benchmark:
        f"{SET}/benchmarks/train/{NAME}.tsv"
    wildcard_constraints:
        model="(?!.*_finetuned)[a-z0-9_]+",
    conda:
        "../../environment.yml"
    # For Snakemake's scheduling. The job itself uses the threads of the experiment set on any machine: their number is
    # part of what makes a CPU run repeatable bit for bit.
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=more_each_time(8000),
        # Minutes of one attempt: the next goes on from the checkpoint.
        runtime=24 * 60,
    params:
        config_digest=run_digest,
        run=NAME,
        data=subpath(input.data, parent=True),
        folder=subpath(output.summary, parent=True),
        parent="",
    shell:
        call_biva(
            "train {wildcards.experiments} {params.run} --data {params.data} --to {params.folder} {params.parent}"
            " > {log} 2>&1"
        )


# Training on without free bits from the selected weights of another run; a run of its own like any other.
use rule train as finetune with:
    input:
        data=f"{DATA}/data.json",
        arrays=ancient(f"{DATA}/data.safetensors"),
        parent=parent_files,
    wildcard_constraints:
        model="[a-z0-9_]+_finetuned",
    params:
        config_digest=run_digest,
        run=NAME,
        data=subpath(input.data, parent=True),
        folder=subpath(output.summary, parent=True),
        parent=lambda w, input: f"--parent {Path(input.parent[0]).parent}",
