# One run per dataset, architecture, model and seed. What triggers it again: profiles/default/config.yaml.


rule train:
    input:
        data="resources/{dataset}/data.json",
        # The fingerprint in data.json tells whether the arrays changed; their age tells nothing.
        arrays=ancient("resources/{dataset}/data.safetensors"),
    output:
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    log:
        "results/{experiments}/logs/train/{dataset}/{architecture}/{model}/seed{seed}.log",
    benchmark:
        "results/{experiments}/benchmarks/train/{dataset}/{architecture}/{model}/seed{seed}.tsv"
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
    shell:
        "python -m biva train {wildcards.experiments}"
        " {wildcards.dataset}/{wildcards.architecture}/{wildcards.model}/seed{wildcards.seed} > {log} 2>&1"


# Training on without free bits from the selected weights of another run; a run of its own like any other.
use rule train as finetune with:
    input:
        data="resources/{dataset}/data.json",
        arrays=ancient("resources/{dataset}/data.safetensors"),
        parent=parent_files,
    wildcard_constraints:
        model="[a-z0-9_]+_finetuned",
