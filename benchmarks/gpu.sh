#!/usr/bin/env bash
# Figures of one GPU that stand in docs/ and benchmarks/results, step by step; a step that is done is not done again.
#
#   benchmarks/gpu.sh OUT STEP...        e.g. benchmarks/gpu.sh runs/gpu tests shape gateways-4 loops ranking
#   DATA=folder benchmarks/gpu.sh OUT study-online_retail-0 study-online_retail-1
#
#   tests        GPU tests of engine, kernels and ranker
#   shape        the bundle with random weights that the gateways serve (1 minute)
#   gateways-N   a service with N gateways before it, W=300 and 50, deadline 100 ms (2 minutes)
#   loops        open loops and small batches, forced levels left out (4 minutes)
#   ranking      recall beside recall and ranks (4 minutes)
#   sid          a million vectors to semantic IDs
#   study-R-S    seed S of recipe R to its final table, then its rankers; several may run at once
#
# Files land in OUT: JSON, and a log a step. From a checkout, with genrecall importable by $PYTHON (python3).
set -u
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda}
OUT=$1; shift
mkdir -p "$OUT"
URL=http://127.0.0.1:8089
genrecall() { $PYTHON -m genrecall "$@"; }

gateways() { # number of gateways
  $PYTHON -m genrecall serve "$OUT/shape/bundle" --catalog "$OUT/shape/catalog" --state "$OUT/state-$1" --gateways "$1" \
    --max-inflight 1024 --deadline-ms 100 --device $DEVICE --port 8089 &
  local service=$! failed=0
  for _ in $(seq 180); do curl -sf $URL/health/ready > /dev/null && break; sleep 1; done
  genrecall bench serve $URL --beam 300 -k 50 --deadline-ms 100 --seconds 4 --rate 120,160,200,240,280 --json \
    > "$OUT/gateways-$1-w300.json" || failed=1
  genrecall bench serve $URL --beam 50 -k 50 --deadline-ms 100 --seconds 4 --rate 300,400,500,560,620,700 --json \
    > "$OUT/gateways-$1-w50.json" || failed=1
  kill $service; wait $service
  return $failed
}

study() { # recipe, seed; $OUT/RECIPE holds what its seeds share, where `genrecall run` has made that once
  local run="$OUT/$1-$2"
  [ -n "${DATA:-}" ] || { echo "DATA is not set: name the folder that holds the data set of $1"; return 2; }
  mkdir -p "$run"
  for part in catalog vectors tuning; do [ ! -d "$OUT/$1/$part" ] || [ -d "$run/$part" ] || cp -r "$OUT/$1/$part" "$run/"; done
  genrecall run --recipe "$1" --data "$DATA" --out "$run" --first-seed "$2" --final --device $DEVICE \
    && $PYTHON benchmarks/ranking.py --run "$run" --recipe "$1" --out "$run-rank" --results "$run-rank" --seeds "$2" \
      --cases 20000 --epochs 6 --device $DEVICE
}

step() {
  case $1 in
    tests) $PYTHON -m pytest -q -m gpu tests/engine tests/kernels tests/rank ;;
    shape) $PYTHON benchmarks/shape_bundle.py --shape qwen2-1.5b --items 100000 --out "$OUT/shape" ;;
    gateways-*) gateways "${1#gateways-}" ;;
    loops) genrecall bench engine --suite open-loop --shape qwen2-1.5b --beam 50,300 --precision bf16 --forced auto \
        --slo-ms 100 --seconds 2 --out "$OUT/loops.json" \
      && genrecall bench engine --shape qwen2-1.5b --beam 50,300 --precision bf16 --forced auto --batch 1,2,4,8 \
        --seconds 1.5 --out "$OUT/small.json" ;;
    ranking) genrecall bench rank --shape qwen2-1.5b --precision bf16 --out "$OUT/rank.json" ;;
    sid) genrecall bench sid --items 1000000 --dims 768 --device $DEVICE --json > "$OUT/sid.json" ;;
    study-*-*) local seed=${1##*-} recipe=${1#study-}; study "${recipe%-*}" "$seed" ;;
    *) echo "unknown step: $1; see the head of $0" >&2; return 2 ;;
  esac
}

missed=0
for name in "$@"; do
  [ -e "$OUT/$name.done" ] && continue
  echo "$(date +%T) $name"
  if step "$name" > "$OUT/$name.log" 2>&1; then touch "$OUT/$name.done"; else missed=1; echo "FAILED: $OUT/$name.log"; fi
done
exit $missed
