# Raw bytes -> one canonical array file per dataset. Where bytes come from: config/datasets.yaml, `data_mirror`.


rule fetch:
    output:
        # The list of the files. They themselves are no outputs: Snakemake deletes those of a failed job, and what has
        # been fetched and verified is kept for the next attempt.
        f"{DATA}/fetched.txt",
    log:
        f"{DATA}/logs/fetch.log",
    benchmark:
        f"{DATA}/benchmarks/fetch.tsv"
    # Where Snakemake runs, not in a cluster's job: compute nodes may have no network.
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        call_biva("fetch {wildcards.dataset} --to {params.folder}/raw > {output} 2> {log}")


rule prepare:
    input:
        f"{DATA}/fetched.txt",
    output:
        data=f"{DATA}/data.json",
        arrays=f"{DATA}/data.safetensors",
    log:
        f"{DATA}/logs/prepare.log",
    benchmark:
        f"{DATA}/benchmarks/prepare.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda w, attempt: attempt * 4000,
        runtime=lambda w, attempt: attempt * 60,
    params:
        folder=subpath(input[0], parent=True),
    shell:
        call_biva("prepare {wildcards.dataset} --from {params.folder}/raw --to {params.folder} > {log} 2>&1")
