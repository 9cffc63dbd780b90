# Run records -> results.csv -> tables; run records -> figures; all of them -> summary and MLflow. Each takes seconds, so on
# a cluster they run where Snakemake runs.


report: "../report/workflow.rst"


from biva.reporting.figures import caption, inputs

config["shown_settings"] = shown_settings(config["experiments"])


rule collect:
    input:
        collected_files,
    output:
        report(
            f"{SET}/results.csv",
            caption="../report/results.rst",
            category="Results",
            labels={"content": "{experiments} / every run and metric"},
        ),
    log:
        f"{SET}/logs/collect.log",
    benchmark:
        f"{SET}/benchmarks/collect.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        call_biva("collect {wildcards.experiments} --results {params.folder} > {log} 2>&1")


rule table:
    input:
        results=f"{SET}/results.csv",
        paper=PAPER,
    output:
        tex=f"{SET}/tables/{{table}}.tex",
        html=report(
            f"{SET}/tables/{{table}}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{experiments} / {table}"},
        ),
    log:
        f"{SET}/logs/tables/{{table}}.log",
    benchmark:
        f"{SET}/benchmarks/tables/{{table}}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=table_settings,
        folder=subpath(input.results, parent=True),
    shell:
        call_biva("table {wildcards.experiments} {wildcards.table} --results {params.folder} > {log} 2>&1")


rule figure:
    input:
        lambda w: files_of(w.experiments, drawn_runs(w.experiments), *inputs(w.figure)),
    output:
        pdf=f"{SET}/figures/{{figure}}.pdf",
        png=report(
            f"{SET}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{experiments} / {figure}"},
        ),
    log:
        f"{SET}/logs/figures/{{figure}}.log",
    benchmark:
        f"{SET}/benchmarks/figures/{{figure}}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=figure_settings,
        caption=lambda w: caption(w.figure),
        folder=subpath(output.pdf, ancestor=2),
    shell:
        call_biva("figure {wildcards.experiments} {wildcards.figure} --results {params.folder} > {log} 2>&1")


rule summary:
    input:
        runs=collected_files,
        reports=lambda w: report_files(w.experiments),
    output:
        # summary.pdf is no output: it is made where LaTeX is installed, and nothing fails where it is not.
        f"{SET}/summary.tex",
    log:
        f"{SET}/logs/summary.log",
    benchmark:
        f"{SET}/benchmarks/summary.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        texts=summary_texts,
        folder=subpath(output[0], parent=True),
    shell:
        call_biva("summary {wildcards.experiments} --results {params.folder} > {log} 2>&1")


rule track:
    input:
        runs=collected_files,
        results=f"{SET}/results.csv",
        reports=lambda w: report_files(w.experiments),
        summary=f"{SET}/summary.tex",
    output:
        f"{SET}/tracked.txt",
    log:
        f"{SET}/logs/track.log",
    benchmark:
        f"{SET}/benchmarks/track.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        runs=run_folders,
        folder=subpath(input.summary, parent=True),
    shell:
        call_biva("track {params.runs} --results {params.folder} > {output} 2> {log}")


rule published:
    # Tables and figures of results/published anew, from the records that git keeps. No outputs: it always runs, since
    # the times of files that come from git mean nothing.
    input:
        paper=PAPER,
    log:
        "results/logs/published.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        call_biva("rebuild > {log} 2>&1")
