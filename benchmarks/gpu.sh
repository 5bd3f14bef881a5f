#!/usr/bin/env bash
# Everything that wants a GPU, in pieces of at most ten minutes that save to $OUT and resume: bash benchmarks/gpu.sh STEP [MINUTES]
#   tests      the `gpu` tests
#   bench      the rasterizer's backends against plain torch, into $OUT/rasterizer.md
#   full       the full-size networks with random weights: 50 steps of 25 x 576x1024 in every memory plan, into $OUT/full_size.md
#   train      mini U-Net training from $OUT/runs (or the runs/ that was brought along), stopped after MINUTES (default 9)
# WHEELS names a folder of wheels for packages that the machine lacks (diffusers, open_clip_torch, pycolmap, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OUT:=out/gpu}"
step=${1:?tests, bench, full or train}
minutes=${2:-9}
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ]; then python3 -m pip install --quiet --no-index --find-links "$WHEELS" diffusers open_clip_torch pycolmap gsplat; fi
python3 -m pip install --quiet --no-deps -e .
case "$step" in
  tests) python3 -m pytest -m gpu tests | tee "$OUT/gpu_tests.txt" ;;
  bench) python3 benchmarks/rasterizer.py --no-write | tee "$OUT/rasterizer.md" ;;
  full) python3 benchmarks/full_size.py --device cuda --calls --sizes 576x1024 --no-write | tee "$OUT/full_size.md" ;;
  train)
    if [ -d runs ] && [ ! -d "$OUT/runs" ]; then cp -r runs "$OUT/runs"; fi
    timeout --signal=INT "$((minutes * 60))" accelerate launch train/unet.py configs/mini/unet.yaml out="$OUT/runs/unet" clips="$OUT/runs/clips" \
      | tee -a "$OUT/train.log" || [ $? -eq 124 ] ;;
  *) echo "unknown step $step" >&2; exit 2 ;;
esac
