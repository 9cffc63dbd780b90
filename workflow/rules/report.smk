# Run records -> results.csv -> tables; run records -> figures; all of them -> summary and MLflow. Each takes seconds, so on
# a cluster they run where Snakemake runs. `params.call` is the verb and what it makes.


report: "../report/workflow.rst"


from biva.reporting.figures import inputs
from biva.reporting.figures.registry import FIGURES

names = dict.fromkeys([config["experiments"], *load_sets(config["experiments"])])
paths = [CONFIG_FOLDER / "config.yaml", *(CONFIG_FOLDER / "experiments" / f"{name}.yaml" for name in names)]
config["shown_settings"] = {str(path): path.read_text(encoding="utf-8") for path in paths}


localrules:  # which a rule does not inherit
    collect,
    table,
    figure,
    anomalies,
    summary,


rule collect:
    input:
        collected_files,
    output:
        shown(f"{SET}/results.csv", "results.rst", "Results", content="{experiments} / every run and metric"),
    log:
        f"{SET}/logs/collect.log",
    benchmark:
        f"{SET}/benchmarks/collect.tsv"
    conda:
        "../../environment.yml"
    params:
        call="collect {experiments}",
        folder=subpath(output[0], parent=True),
    shell:
        call_biva("{params.call} --results {params.folder} > {log} 2>&1")


use rule collect as table with:
    input:
        results=f"{SET}/results.csv",
        paper=PAPER,
    output:
        tex=f"{SET}/tables/{{table}}.tex",
        json=f"{SET}/tables/{{table}}.json",
        html=shown(f"{SET}/tables/{{table}}.html", "table.rst", "Tables", table="{experiments} / {table}"),
    log:
        f"{SET}/logs/tables/{{table}}.log",
    benchmark:
        f"{SET}/benchmarks/tables/{{table}}.tsv"
    params:
        call="table {experiments} {table}",
        settings=table_settings,
        folder=subpath(input.results, parent=True),


use rule collect as figure with:
    input:
        lambda w: files_of(w.experiments, drawn_runs(w.experiments), *inputs(w.figure)),
    output:
        pdf=f"{SET}/figures/{{figure}}.pdf",
        png=shown(f"{SET}/figures/{{figure}}.png", "figure.rst", "Figures", figure="{experiments} / {figure}"),
    log:
        f"{SET}/logs/figures/{{figure}}.log",
    benchmark:
        f"{SET}/benchmarks/figures/{{figure}}.tsv"
    params:
        call="figure {experiments} {figure}",
        settings=figure_settings,
        caption=lambda w: FIGURES[w.figure].caption,
        folder=subpath(output.pdf, ancestor=2),


use rule collect as anomalies with:
    input:
        records=pair_files,
        paper=PAPER,
    output:
        tex=f"{SET}/anomalies/{{pair}}.tex",
        json=f"{SET}/anomalies/{{pair}}.json",
        html=shown(f"{SET}/anomalies/{{pair}}.html", "anomaly.rst", "Tables", table="{experiments} / {pair}"),
        pdf=f"{SET}/anomalies/{{pair}}.pdf",
        png=shown(f"{SET}/anomalies/{{pair}}.png", "anomaly.rst", "Figures", figure="{experiments} / {pair}"),
    log:
        f"{SET}/logs/anomalies/{{pair}}.log",
    benchmark:
        f"{SET}/benchmarks/anomalies/{{pair}}.tsv"
    params:
        call="anomalies {experiments} {pair}",
        settings=lambda w: pair_settings(w) | about(scoring_runs(w)),
        folder=subpath(output.tex, ancestor=2),


use rule collect as summary with:
    input:
        runs=collected_files,
        reports=lambda w: report_files(w.experiments),
    output:
        # summary.pdf is no output: it is made where LaTeX is installed, and nothing fails where it is not.
        tex=f"{SET}/summary.tex",
        page=f"{SET}/index.html",
    log:
        f"{SET}/logs/summary.log",
    benchmark:
        f"{SET}/benchmarks/summary.tsv"
    params:
        call="summary {experiments}",
        texts=summary_texts,


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
        runs=lambda w, input: [Path(file).parent for file in input.runs if Path(file).name == "train.json"],
        folder=subpath(input.summary, parent=True),
    shell:
        call_biva("track {params.runs} --results {params.folder} > {output} 2> {log}")


# Tables and figures of results/published anew, from the records that git keeps. No outputs: it always runs, since the
# times of files that come from git mean nothing.
rule published:
    input:
        paper=PAPER,
    log:
        "results/logs/published.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        call_biva("rebuild > {log} 2>&1")
