# Run records -> results.csv -> tables; run records -> figures; all of them -> summary and MLflow. Each takes seconds, so on
# a cluster they run where Snakemake runs.


report: "../report/workflow.rst"


config["shown_settings"] = shown_settings(config["experiments"])
config["distances"] = distances


rule collect:
    input:
        collected_files,
    output:
        report(
            "results/{experiments}/results.csv",
            caption="../report/results.rst",
            category="Results",
            labels={"content": "{experiments} / every run and metric"},
        ),
    log:
        "results/{experiments}/logs/collect.log",
    benchmark:
        "results/{experiments}/benchmarks/collect.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        columns=25,  # of results.csv; what an earlier version of biva collected, with fewer, is collected again
    shell:
        "python -m biva collect {wildcards.experiments} > {log} 2>&1"


rule table:
    input:
        results="results/{experiments}/results.csv",
        paper="config/paper_results.csv",
    output:
        tex="results/{experiments}/tables/{table}.tex",
        html=report(
            "results/{experiments}/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{experiments} / {table}"},
        ),
    log:
        "results/{experiments}/logs/tables/{table}.log",
    benchmark:
        "results/{experiments}/benchmarks/tables/{table}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=table_settings,
    shell:
        "python -m biva table {wildcards.experiments} {wildcards.table} > {log} 2>&1"


rule figure:
    input:
        figure_files,
    output:
        pdf="results/{experiments}/figures/{figure}.pdf",
        png=report(
            "results/{experiments}/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{experiments} / {figure}"},
        ),
    log:
        "results/{experiments}/logs/figures/{figure}.log",
    benchmark:
        "results/{experiments}/benchmarks/figures/{figure}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=figure_settings,
    shell:
        "python -m biva figure {wildcards.experiments} {wildcards.figure} > {log} 2>&1"


rule summary:
    input:
        runs=collected_files,
        reports=lambda w: report_files(w.experiments),
    output:
        # summary.pdf is no output: it is made where LaTeX is installed, and nothing fails where it is not.
        "results/{experiments}/summary.tex",
    log:
        "results/{experiments}/logs/summary.log",
    benchmark:
        "results/{experiments}/benchmarks/summary.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        texts=summary_texts,
    shell:
        "python -m biva summary {wildcards.experiments} > {log} 2>&1"


rule track:
    input:
        runs=collected_files,
        results="results/{experiments}/results.csv",
        reports=lambda w: report_files(w.experiments),
        summary="results/{experiments}/summary.tex",
    output:
        "results/{experiments}/tracked.txt",
    log:
        "results/{experiments}/logs/track.log",
    benchmark:
        "results/{experiments}/benchmarks/track.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        folders=lambda w: run_folders(w.experiments),
    shell:
        "python -m biva track {params.folders} > {output} 2> {log}"


rule published:
    # Tables and figures of results/published anew, from the records that git keeps. No outputs: it always runs, since
    # the times of files that come from git mean nothing.
    input:
        paper="config/paper_results.csv",
    log:
        "results/logs/published.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        "python -m biva rebuild > {log} 2>&1"
