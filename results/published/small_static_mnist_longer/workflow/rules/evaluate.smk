# Importance-weighted bounds, KL per layer, active units, samples and reconstructions of one trained run; and how well
# L^{>k} of the run tells another dataset's test images from those of its own.


rule evaluate:
    input:
        **DATASET,
        **TRAINED,
        parts=part_files,
    output:
        summary=f"{RUN}/evaluation.json",
        arrays=f"{RUN}/evaluation.safetensors",
    log:
        f"{SET}/logs/evaluate/{NAME}.log",
    benchmark:
        f"{SET}/benchmarks/evaluate/{NAME}.tsv"
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        **RESOURCES_OF_RUN,
    params:
        verb="evaluate",
        settings=lambda w: settings_digest(experiment_set(w.experiments).evaluation.model_dump(mode="json")),
        run=NAME,
        data=subpath(input.data, parent=True),
        folder=subpath(input.summary, parent=True),
        more="",
    shell:
        call_biva(
            "{params.verb} {wildcards.experiments} {params.run} {params.more}"
            " --data {params.data} --run {params.folder} > {log} 2>&1"
        )


# With `evaluation_jobs` above 1: one share of the importance samples. They are kept beside the run's checkpoint, where a
# killed job finds them again, and `evaluate` all of them; the output says no more than that they are there.
use rule evaluate as evaluate_part with:
    input:
        **DATASET,
        **TRAINED,
    output:
        touch(f"{RUN}/evaluation_parts/{{part}}of{{parts}}"),
    log:
        f"{SET}/logs/evaluate/{NAME}/{{part}}of{{parts}}.log",
    benchmark:
        f"{SET}/benchmarks/evaluate/{NAME}/{{part}}of{{parts}}.tsv"
    wildcard_constraints:
        part="[0-9]+",
        parts="[0-9]+",
    params:
        more="--part {part}/{parts}",


use rule evaluate as detect with:
    input:
        **DATASET,
        **TRAINED,
        anomalous=lambda w: f"resources/{find_pair(w.experiments, w.pair).anomalous}/data.json",
        choosing=choosing_files,
    output:
        summary=f"{RUN}/anomaly/{{pair}}.json",
        arrays=f"{RUN}/anomaly/{{pair}}.safetensors",
    log:
        f"{SET}/logs/detect/{NAME}/{{pair}}.log",
    benchmark:
        f"{SET}/benchmarks/detect/{NAME}/{{pair}}.tsv"
    params:
        verb="detect",
        settings=pair_settings,
        more=lambda w, input: " ".join(
            [w.pair, f"--anomalous {Path(input.anomalous).parent}"]
            + [f"--choosing {Path(file).parent}" for file in input.choosing]
        ),
