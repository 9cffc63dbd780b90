# How well L^{>k} of a trained run tells another dataset's test images from those of its own.


rule detect:
    input:
        data=f"{DATA}/data.json",
        arrays=ancient(f"{DATA}/data.safetensors"),
        anomalous=anomalous_data,
        summary=f"{RUN}/train.json",
        weights=f"{RUN}/weights.safetensors",
    output:
        summary=f"{RUN}/anomaly/{{pair}}.json",
        arrays=f"{RUN}/anomaly/{{pair}}.safetensors",
    log:
        f"{SET}/logs/detect/{NAME}/{{pair}}.log",
    benchmark:
        f"{SET}/benchmarks/detect/{NAME}/{{pair}}.tsv"
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        mem_mb=more_each_time(8000),
        runtime=24 * 60,
    params:
        settings=pair_settings,
        run=NAME,
        data=subpath(input.data, parent=True),
        anomalous=subpath(input.anomalous, parent=True),
        folder=subpath(input.summary, parent=True),
    shell:
        call_biva(
            "detect {wildcards.experiments} {params.run} {wildcards.pair}"
            " --data {params.data} --anomalous {params.anomalous} --run {params.folder} > {log} 2>&1"
        )


rule anomalies:
    input:
        records=pair_files,
        paper=PAPER,
    output:
        tex=f"{SET}/anomalies/{{pair}}.tex",
        html=report(
            f"{SET}/anomalies/{{pair}}.html",
            caption="../report/anomaly.rst",
            category="Tables",
            labels={"table": "{experiments} / {pair}"},
        ),
        pdf=f"{SET}/anomalies/{{pair}}.pdf",
        png=report(
            f"{SET}/anomalies/{{pair}}.png",
            caption="../report/anomaly.rst",
            category="Figures",
            labels={"figure": "{experiments} / {pair}"},
        ),
    log:
        f"{SET}/logs/anomalies/{{pair}}.log",
    benchmark:
        f"{SET}/benchmarks/anomalies/{{pair}}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=pair_report_settings,
        folder=subpath(output.tex, ancestor=2),
    shell:
        call_biva("anomalies {wildcards.experiments} {wildcards.pair} --results {params.folder} > {log} 2>&1")
