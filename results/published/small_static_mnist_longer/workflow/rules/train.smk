# One run per dataset, architecture, model and seed. What triggers it again: profiles/default/config.yaml.


rule train:
    input:
        **DATASET,
    output:
        **TRAINED,
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
        **RESOURCES_OF_RUN,
    params:
        config_digest=lambda w: run_of(w).digest,
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
        **DATASET,
        parent=parent_files,
    wildcard_constraints:
        model="[a-z0-9_]+_finetuned",
    params:
        parent=lambda w, input: f"--parent {Path(input.parent[0]).parent}",
