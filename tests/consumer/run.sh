#!/usr/bin/env bash
# Runs both consumer programs from their build folder: run.sh <checkpoint folder>
set -euo pipefail
./app
./reader "$1"
