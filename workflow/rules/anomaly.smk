# How well L^{>k} of a trained run tells another dataset's test images from those of its own.


rule detect:
    input:
        data="resources/{dataset}/data.json",
        arrays=ancient("resources/{dataset}/data.safetensors"),
        anomalous=anomalous_data,
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    output:
        summary=f"{RUN}/anomaly/{{pair}}.json",
        arrays=f"{RUN}/anomaly/{{pair}}.safetensors",
    log:
        "results/{experiments}/logs/detect/{dataset}/{architecture}/{model}/seed{seed}/{pair}.log",
    benchmark:
        "results/{experiments}/benchmarks/detect/{dataset}/{architecture}/{model}/seed{seed}/{pair}.tsv"
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=more_each_time(8000),
        runtime=24 * 60,
    params:
        settings=pair_settings,
    shell:
        "python -m biva detect {wildcards.experiments}"
        " {wildcards.dataset}/{wildcards.architecture}/{wildcards.model}/seed{wildcards.seed} {wildcards.pair}"
        " > {log} 2>&1"


rule anomalies:
    input:
        records=pair_files,
        paper="config/paper_results.csv",
    output:
        tex="results/{experiments}/anomalies/{pair}.tex",
        html=report(
            "results/{experiments}/anomalies/{pair}.html",
            caption="../report/anomaly.rst",
            category="Tables",
            labels={"table": "{experiments} / {pair}"},
        ),
        pdf="results/{experiments}/anomalies/{pair}.pdf",
        png=report(
            "results/{experiments}/anomalies/{pair}.png",
            caption="../report/anomaly.rst",
            category="Figures",
            labels={"figure": "{experiments} / {pair}"},
        ),
    log:
        "results/{experiments}/logs/anomalies/{pair}.log",
    benchmark:
        "results/{experiments}/benchmarks/anomalies/{pair}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=pair_report_settings,
    shell:
        "python -m biva anomalies {wildcards.experiments} {wildcards.pair} > {log} 2>&1"
