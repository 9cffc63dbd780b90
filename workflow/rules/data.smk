# Raw bytes -> one canonical array file per dataset. Where bytes come from: config/datasets.yaml, `data_mirror`.


rule fetch:
    output:
        # The list of the files. They themselves are no outputs: Snakemake deletes those of a failed job, and what has
        # been fetched and verified is kept for the next attempt.
        "resources/{dataset}/fetched.txt",
    log:
        "resources/{dataset}/logs/fetch.log",
    benchmark:
        "resources/{dataset}/benchmarks/fetch.tsv"
    # Where Snakemake runs, not in a cluster's job: compute nodes may have no network.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
    shell:
        "python -m biva fetch {wildcards.dataset} > {output} 2> {log}"


rule prepare:
    input:
        "resources/{dataset}/fetched.txt",
    output:
        arrays="resources/{dataset}/data.safetensors",
        summary="resources/{dataset}/data.json",
    log:
        "resources/{dataset}/logs/prepare.log",
    benchmark:
        "resources/{dataset}/benchmarks/prepare.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_time(4000),
        runtime=more_each_time(60),
    shell:
        "python -m biva prepare {wildcards.dataset} > {log} 2>&1"
