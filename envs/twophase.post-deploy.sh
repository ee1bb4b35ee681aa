#!/usr/bin/env bash
# Run by Snakemake in the new conda environment, from the project's folder.
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes -r envs/requirements.lock
