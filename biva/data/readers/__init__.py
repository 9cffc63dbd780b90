"""One file per format of raw files. Its name is what `reader` in `config/datasets.yaml` names.

In it are

FILES: what the files are, in the order in which `config/datasets.yaml` lists them.
GIVES: the splits whose arrays it gives.
LABELS: True, where it gives labels too; others do not have it.
read(paths, config): the arrays of those files, "train/images" and so on, and "train/labels" where labels are used.

A reader sees files whose digests have been verified, or, under `trust: first_use`, measured (`biva.data.limits`).
What it gives is compared with the dataset's entry, and what it raises is reported as a UserError: that is done in one
place for all, `biva.data.datasets.read_arrays`.
"""
